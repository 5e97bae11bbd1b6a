// Generate an image with an exported decoder: read the spec in the file, draw noise, and run the model.
//
//     generate decoder.onnx seven.pgm --label 7 [--seed 1] [--noise noise.f32]
//     generate decoder.onnx face.ppm --condition age=40 --condition smiling=yes
//
// A condition that is left out is unknown. If a model needs a label, the default is its first class. A number beyond the
// range of the training data needs the flag --extrapolate. --noise reads float32 noise from a file instead of drawing it.
// The output is PGM for grey images and PPM for colour.

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
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

struct Condition {
  std::string name, kind;
  std::vector<std::string> values;  // names of the values of a category, or of attributes
  double low, high;                 // range of a number
  bool optional;                    // whether the value may be unknown
};

std::vector<Condition> read_conditions(const Json& spec) {
  std::vector<Condition> conditions;
  if (spec["format"].number == 1) {  // class names instead of conditions
    if (spec["classes"]) conditions.push_back({"label", "category", spec["classes"].strings(), 0, 0, false});
    return conditions;
  }
  if (spec["format"].number != 2) throw std::runtime_error("the model has a newer format; use a newer program");
  for (const auto& item : spec["conditions"].items)
    conditions.push_back({item["name"].text, item["kind"].text, item["values"].strings(), item["low"].number,
                          item["high"].number, bool(item["optional"])});
  return conditions;
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

int64_t find_value(const Condition& condition, const std::string& value) {
  auto match = std::find(condition.values.begin(), condition.values.end(), value);
  if (match != condition.values.end()) return match - condition.values.begin();
  // Reject an unknown value here, because onnxruntime would accept the index -1 as the last one.
  std::string what = condition.kind == "category" ? "value" : "attribute";
  throw std::runtime_error(condition.name + " has no " + what + " '" + value + "'; its " + what + "s are " +
                           join(condition.values));
}

std::string format_number(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

float parse_number(const Condition& condition, const std::string& value, bool extrapolate) {
  char* end = nullptr;
  double number = std::strtod(value.c_str(), &end);
  if (value.empty() || value.find_first_not_of("+-.0123456789eE") != std::string::npos || *end != 0 ||
      !(std::abs(number) <= 1e30))
    throw std::runtime_error(condition.name + " must be a finite number, not '" + value + "'");
  if (!extrapolate && !(condition.low <= number && number <= condition.high))
    throw std::runtime_error(condition.name + " is " + value + ", but the images of the model had values in " +
                             format_number(condition.low) + ".." + format_number(condition.high) +
                             "; choose one of these, or pass --extrapolate");
  return float(number);
}

// Returns 0 or 1 for each attribute. The value is yes or no for a single attribute, else the names of those that are
// yes, separated by commas, or "none".
std::vector<float> parse_attributes(const Condition& condition, const std::string& value) {
  std::vector<float> flags(condition.values.size(), 0);
  if (flags.size() == 1) {
    bool yes = value == "yes" || value == "true" || value == "1";
    if (!yes && value != "no" && value != "false" && value != "0")
      throw std::runtime_error(condition.name + " must be yes or no, not '" + value + "'");
    return {float(yes)};
  }
  if (value == "none") return flags;
  std::stringstream names(value + ",");
  for (std::string name; std::getline(names, name, ',');) flags[find_value(condition, name)] = 1;
  return flags;
}

bool is_unknown(const Condition& condition, const std::string& value) {
  bool is_name = std::count(condition.values.begin(), condition.values.end(), value);
  return (value == "any" || value == "unknown") && !is_name;
}

// Inputs of the decoder for the conditions of one image. The tensors refer to the values in this object.
struct ConditionInputs {
  std::vector<std::string> names;
  std::vector<Ort::Value> tensors;

  ConditionInputs(const std::vector<Condition>& conditions, const std::map<std::string, std::string>& values,
                  bool extrapolate)
      : indices(conditions.size()), numbers(conditions.size()), known(new bool[conditions.size()]) {
    for (size_t i = 0; i < conditions.size(); ++i) {
      const Condition& condition = conditions[i];
      auto value = values.find(condition.name);
      known[i] = value != values.end() && !is_unknown(condition, value->second);
      if (!known[i] && !condition.optional)
        throw std::runtime_error(condition.name + " must be known; choose one of " + join(condition.values));
      names.push_back(condition.name);
      if (condition.kind == "category") {
        indices[i] = known[i] ? find_value(condition, value->second) : condition.values.size();
        add(&indices[i], {1});
      } else if (condition.kind == "number") {
        numbers[i] = {known[i] ? parse_number(condition, value->second, extrapolate) : 0};
        add(numbers[i].data(), {1});
      } else {
        numbers[i].resize(condition.values.size());
        if (known[i]) numbers[i] = parse_attributes(condition, value->second);
        add(numbers[i].data(), {1, int64_t(numbers[i].size())});
      }
    }
    if (conditions.empty() || (conditions.size() == 1 && conditions[0].kind == "category")) return;
    names.push_back("known");
    add(known.get(), {1, int64_t(conditions.size())});
  }

 private:
  std::vector<int64_t> indices;
  std::vector<std::vector<float>> numbers;
  std::unique_ptr<bool[]> known;

  template <typename T>
  void add(T* values, const std::vector<int64_t>& shape) {
    static const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    size_t count = shape.size() == 2 ? shape[1] : 1;
    tensors.push_back(Ort::Value::CreateTensor<T>(memory, values, count, shape.data(), shape.size()));
  }
};

uint64_t parse_seed(const std::string& text) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
    throw std::runtime_error("'" + text + "' is not a valid seed; use an integer of at most 18 digits");
  return std::stoull(text);
}

struct Arguments {
  std::map<std::string, std::string> options;  // by flag
  std::map<std::string, std::string> values;   // of conditions, by name
  bool extrapolate = false;
  bool valid = true;
};

Arguments parse_arguments(int argc, char** argv) {
  Arguments arguments;
  for (int i = 3; i < argc; ++i) {
    std::string flag = argv[i];
    if (flag == "--extrapolate") {
      arguments.extrapolate = true;
      continue;
    }
    bool is_flag = flag == "--label" || flag == "--condition" || flag == "--seed" || flag == "--noise";
    if (!is_flag || ++i == argc) {
      arguments.valid = false;
      return arguments;
    }
    std::string value = argv[i];
    size_t equals = value.find('=');
    if (flag != "--condition") {
      arguments.options[flag] = value;
    } else if (equals == std::string::npos) {
      throw std::runtime_error("--condition '" + value + "' is not NAME=VALUE");
    } else {
      arguments.values[value.substr(0, equals)] = value.substr(equals + 1);
    }
  }
  return arguments;
}

// Adds the label to the values of the conditions, and checks their names.
void add_label(const std::vector<Condition>& conditions, Arguments& arguments) {
  auto& values = arguments.values;
  bool is_single = conditions.size() == 1 && conditions[0].kind == "category";
  if (auto label = arguments.options.find("--label"); label != arguments.options.end()) {
    if (conditions.empty())
      throw std::runtime_error("the model has no labels; remove --label '" + label->second + "'");
    values[is_single ? conditions[0].name : "label"] = label->second;
  } else if (is_single && !conditions[0].optional && values.empty()) {
    values[conditions[0].name] = conditions[0].values.at(0);
  }
  std::vector<std::string> names;
  for (const auto& condition : conditions) names.push_back(condition.name);
  for (const auto& value : values)
    if (!std::count(names.begin(), names.end(), value.first))
      throw std::runtime_error("the model has no condition '" + value.first + "'" +
                               (names.empty() ? "" : "; its conditions are " + join(names)));
}

int run(int argc, char** argv) {
  Arguments arguments = parse_arguments(argc, argv);
  auto& option = arguments.options;
  if (argc < 3 || !arguments.valid) {
    std::cerr << "usage: generate MODEL OUT.pgm [--label NAME] [--condition NAME=VALUE]... [--extrapolate] [--seed N] "
                 "[--noise FILE]\n";
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
  Json spec = JsonParser(metadata.get()).parse();
  auto conditions = read_conditions(spec);
  add_label(conditions, arguments);
  ConditionInputs inputs(conditions, arguments.values, arguments.extrapolate);

  std::vector<float> noise(size_t(spec["latent_dim"].number));
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
  inputs.names.push_back("noise");
  inputs.tensors.push_back(
      Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), noise_shape.data(), 2));
  std::vector<const char*> names;
  for (const auto& name : inputs.names) names.push_back(name.c_str());
  const char* output = "image";
  auto images = session.Run(Ort::RunOptions{}, names.data(), inputs.tensors.data(), names.size(), &output, 1);

  std::vector<int64_t> shape;  // C, H, W
  for (const auto& side : spec["image_shape"].items) shape.push_back(int64_t(side.number));
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
