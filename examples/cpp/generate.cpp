// Generate an image with an exported decoder: read the spec in the file, draw noise, and run the model.
//
//     generate decoder.onnx seven.pgm --label 7 [--seed 1] [--noise noise.f32]
//
// --noise reads float32 noise from a file instead of drawing it. The output is PGM for grey images and PPM for colour.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

// The spec is a flat JSON object from Python's json.dumps: ASCII, with every quote inside a string escaped. The first
// match of `"key":` is therefore the key itself, so three short functions can read the values. If your program has a
// JSON library, use it instead.
struct Spec {
  std::string text;

  size_t position(const std::string& key) const {
    size_t at = text.find("\"" + key + "\":");
    if (at == std::string::npos) throw std::runtime_error("the spec has no '" + key + "'");
    return text.find_first_not_of(' ', at + key.size() + 3);
  }

  int64_t number(const std::string& key) const { return std::stoll(text.substr(position(key), 20)); }

  std::vector<int64_t> numbers(const std::string& key) const {
    std::vector<int64_t> values;
    for (size_t at = position(key); text[at] != ']'; at = text.find_first_of(",]", at + 1))
      values.push_back(std::stoll(text.substr(at + 1, 20)));
    return values;
  }

  std::vector<std::string> strings(const std::string& key) const {  // empty for null
    std::vector<std::string> values;
    size_t at = position(key);
    if (text[at] != '[') return values;
    while (text[at] != ']') {
      at = text.find('"', at) + 1;
      std::string value;
      for (; text[at] != '"'; ++at) value += text[at] == '\\' ? unescape(at) : std::string(1, text[at]);
      values.push_back(value);
      at = text.find_first_of(",]", at);
    }
    return values;
  }

 private:
  std::string unescape(size_t& at) const {  // moves `at` from the backslash to the last character of the escape sequence
    char letter = text[++at];
    static const std::map<char, char> simple = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'b', '\b'}, {'f', '\f'}};
    if (letter != 'u') return std::string(1, simple.count(letter) ? simple.at(letter) : letter);
    uint32_t code = std::stoul(text.substr(at + 1, 4), nullptr, 16);
    at += 4;
    if (code >= 0xD800 && code < 0xDC00) {  // the first half of a surrogate pair
      code = 0x10000 + ((code - 0xD800) << 10) + std::stoul(text.substr(at + 3, 4), nullptr, 16) - 0xDC00;
      at += 6;
    }
    if (code < 0x80) return {char(code)};
    if (code < 0x800) return {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
    if (code < 0x10000) return {char(0xE0 | code >> 12), char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
    return {char(0xF0 | code >> 18), char(0x80 | (code >> 12 & 63)), char(0x80 | (code >> 6 & 63)),
            char(0x80 | (code & 63))};
  }
};

int64_t label_index(const std::vector<std::string>& classes, const std::string& label) {
  auto match = std::find(classes.begin(), classes.end(), label);
  if (match != classes.end()) return match - classes.begin();
  std::string names;
  for (const auto& name : classes) names += (names.empty() ? "" : ", ") + name;
  // Reject an unknown label here, because onnxruntime would accept -1 as the last class.
  throw std::runtime_error("unknown label '" + label + "'; the labels are " + names);
}

uint64_t parse_seed(const std::string& text) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
    throw std::runtime_error("'" + text + "' is not a valid seed; use an integer of at most 18 digits");
  return std::stoull(text);
}

int run(int argc, char** argv) {
  std::map<std::string, std::string> option;
  for (int i = 3; i + 1 < argc; i += 2) option[argv[i]] = argv[i + 1];
  bool known = std::all_of(option.begin(), option.end(), [](const auto& flag) {
    return flag.first == "--label" || flag.first == "--seed" || flag.first == "--noise";
  });
  if (argc < 3 || argc % 2 == 0 || !known) {
    std::cerr << "usage: generate MODEL OUT.pgm [--label NAME] [--seed N] [--noise FILE]\n";
    return 2;
  }

#ifndef _WIN32
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // unless the user has set it; onnxruntime reads it when Env is created
#endif
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "generate");
  Ort::SessionOptions options;
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // so that idle threads use no CPU
  options.DisableCpuMemArena();                                    // so that memory is released after a run
  Ort::Session session(env, argv[1], options);
  Ort::AllocatorWithDefaultOptions allocator;
  auto metadata = session.GetModelMetadata().LookupCustomMetadataMapAllocated("cvae", allocator);
  if (!metadata) throw std::runtime_error(std::string("'") + argv[1] + "' was not exported by cvae");
  Spec spec{metadata.get()};

  std::vector<float> noise(spec.number("latent_dim"));
  if (option.count("--noise")) {
    std::ifstream file(option["--noise"], std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(noise.data()), noise.size() * sizeof(float)) || file.peek() != EOF)
      throw std::runtime_error("'" + option["--noise"] + "' does not contain " + std::to_string(noise.size()) + " floats");
  } else {
    std::mt19937_64 generator(option.count("--seed") ? parse_seed(option["--seed"]) : std::random_device{}());
    std::normal_distribution<float> normal;
    for (float& value : noise) value = normal(generator);
  }

  auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  std::array<int64_t, 2> noise_shape = {1, int64_t(noise.size())};  // (B, Z)
  std::array<int64_t, 1> label_shape = {1};                         // (B,)
  std::vector<const char*> names = {"noise"};
  std::vector<Ort::Value> inputs;
  inputs.push_back(Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), noise_shape.data(), 2));
  int64_t label = 0;
  if (auto classes = spec.strings("classes"); !classes.empty()) {
    label = label_index(classes, option.count("--label") ? option["--label"] : classes[0]);
    names.push_back("label");
    inputs.push_back(Ort::Value::CreateTensor<int64_t>(memory, &label, 1, label_shape.data(), 1));
  } else if (option.count("--label")) {
    throw std::runtime_error("the model has no labels; remove --label '" + option["--label"] + "'");
  }
  const char* output = "image";
  auto images = session.Run(Ort::RunOptions{}, names.data(), inputs.data(), inputs.size(), &output, 1);

  auto shape = spec.numbers("image_shape");  // C, H, W
  const float* pixels = images[0].GetTensorData<float>();
  std::ofstream file(argv[2], std::ios::binary);
  file << (shape[0] == 1 ? "P5 " : "P6 ") << shape[2] << " " << shape[1] << " 255\n";
  for (int64_t at = 0; at < shape[1] * shape[2]; ++at)
    for (int64_t channel = 0; channel < shape[0]; ++channel)  // (C, H, W) -> (H, W, C)
      file.put(char(std::lround(pixels[channel * shape[1] * shape[2] + at] * 255)));
  if (!file.flush()) throw std::runtime_error(std::string("can't write '") + argv[2] + "'");
  return 0;
}

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {  // includes Ort::Exception
    std::cerr << "generate: error: " << error.what() << "\n";
    return 1;
  }
}
