// An exported decoder in C++: reads what the file says of itself, draws noise, writes one image.
//
//     generate decoder.onnx seven.pgm --label 7 [--seed 1] [--noise noise.f32]
//
// --noise reads the latent numbers, float32, from a file instead of drawing them. A PGM file holds grey, a PPM colour.

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

// The spec is one flat JSON object as Python's json.dumps writes it: ASCII, every quote inside a text escaped. So the
// first `"key":` is the key, and three small readers do. A program that has a JSON library uses that.
struct Spec {
  std::string text;

  size_t after(const std::string& key) const {
    size_t at = text.find("\"" + key + "\":");
    if (at == std::string::npos) throw std::runtime_error("the spec has no '" + key + "'");
    return text.find_first_not_of(' ', at + key.size() + 3);
  }

  int64_t number(const std::string& key) const { return std::stoll(text.substr(after(key), 20)); }

  std::vector<int64_t> numbers(const std::string& key) const {
    std::vector<int64_t> found;
    for (size_t at = after(key); text[at] != ']'; at = text.find_first_of(",]", at + 1))
      found.push_back(std::stoll(text.substr(at + 1, 20)));
    return found;
  }

  std::vector<std::string> strings(const std::string& key) const {  // empty for null
    std::vector<std::string> found;
    size_t at = after(key);
    if (text[at] != '[') return found;
    while (text[at] != ']') {
      at = text.find('"', at) + 1;
      std::string word;
      for (; text[at] != '"'; ++at) word += text[at] == '\\' ? escaped(at) : std::string(1, text[at]);
      found.push_back(word);
      at = text.find_first_of(",]", at);
    }
    return found;
  }

 private:
  std::string escaped(size_t& at) const {  // at the backslash -> at the last character of the escape
    char kind = text[++at];
    static const std::map<char, char> simple = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'b', '\b'}, {'f', '\f'}};
    if (kind != 'u') return std::string(1, simple.count(kind) ? simple.at(kind) : kind);
    uint32_t code = std::stoul(text.substr(at + 1, 4), nullptr, 16);
    at += 4;
    if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair
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
  auto found = std::find(classes.begin(), classes.end(), label);
  if (found != classes.end()) return found - classes.begin();
  std::string names;
  for (const auto& name : classes) names += (names.empty() ? "" : ", ") + name;
  // onnxruntime would take -1 for the last class: the range is checked by whoever calls it.
  throw std::runtime_error("there is no label '" + label + "'; there are: " + names);
}

uint64_t whole_number(const std::string& text) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
    throw std::runtime_error("'" + text + "' is no seed; a seed is a whole number");
  return std::stoull(text);
}

int run(int argc, char** argv) {
  std::map<std::string, std::string> option;
  for (int i = 3; i + 1 < argc; i += 2) option[argv[i]] = argv[i + 1];
  bool known = std::all_of(option.begin(), option.end(), [](const auto& given) {
    return given.first == "--label" || given.first == "--seed" || given.first == "--noise";
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
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // waiting threads burn no CPU
  options.DisableCpuMemArena();                                    // and no memory stays behind
  Ort::Session session(env, argv[1], options);
  Ort::AllocatorWithDefaultOptions allocator;
  auto metadata = session.GetModelMetadata().LookupCustomMetadataMapAllocated("cvae", allocator);
  if (!metadata) throw std::runtime_error(std::string("'") + argv[1] + "' was not exported by cvae");
  Spec spec{metadata.get()};

  std::vector<float> noise(spec.number("latent_dim"));
  if (option.count("--noise")) {
    std::ifstream file(option["--noise"], std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(noise.data()), noise.size() * sizeof(float)) || file.peek() != EOF)
      throw std::runtime_error("'" + option["--noise"] + "' does not hold " + std::to_string(noise.size()) + " floats");
  } else {
    std::mt19937_64 generator(option.count("--seed") ? whole_number(option["--seed"]) : std::random_device{}());
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
    throw std::runtime_error("the model has no labels, so --label '" + option["--label"] + "' means nothing to it");
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
  } catch (const std::exception& error) {  // Ort::Exception too
    std::cerr << "generate: error: " << error.what() << "\n";
    return 1;
  }
}
