// Reader of small JSON documents, such as the spec of an exported file. If your program has a JSON library, use it
// instead.

#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

// Value of a JSON document.
struct Json {
  enum Type { Null, Boolean, Number, String, Array, Object } type = Null;
  double number = 0;              // of a number; 0 or 1 for false or true
  std::string text;               // of a string
  std::vector<std::string> keys;  // of an object
  std::vector<Json> items;        // of an array or an object

  explicit operator bool() const { return type != Null && !(type == Boolean && number == 0); }

  const Json& operator[](const std::string& key) const {  // null if there is no such key
    static const Json null;
    auto match = std::find(keys.begin(), keys.end(), key);
    return match == keys.end() ? null : items[match - keys.begin()];
  }

  std::vector<std::string> strings() const {
    std::vector<std::string> values;
    for (const auto& item : items) values.push_back(item.text);
    return values;
  }
};

class JsonParser {
 public:
  explicit JsonParser(const std::string& text) : text(text) {}

  Json parse(int depth = 0) {
    if (depth > 16) fail();
    Json value;
    char first = peek();
    if (first == '{' || first == '[') {
      char last = first == '{' ? '}' : ']';
      value.type = first == '{' ? Json::Object : Json::Array;
      for (++at; peek() != last; peek() == ',' ? void(++at) : void()) {
        if (first == '{') {
          value.keys.push_back(string());
          if (peek() != ':') fail();
          ++at;
        }
        value.items.push_back(parse(depth + 1));
        if (peek() != ',' && peek() != last) fail();
      }
      ++at;
    } else if (first == '"') {
      value.type = Json::String;
      value.text = string();
    } else {
      std::string word = text.substr(at, text.find_first_of(",]} \n", at) - at);
      at += word.size();
      if (word == "null") return value;
      value.type = word == "true" || word == "false" ? Json::Boolean : Json::Number;
      value.number = value.type == Json::Boolean ? word == "true" : std::stod(word);
    }
    return value;
  }

 private:
  std::string text;
  size_t at = 0;

  [[noreturn]] void fail() const { throw std::runtime_error("the spec of the model is not valid JSON"); }

  char peek() {  // skips white space
    at = text.find_first_not_of(" \n\r\t", at);
    if (at == std::string::npos) fail();
    return text[at];
  }

  std::string string() {
    if (peek() != '"') fail();
    std::string value;
    for (++at; at < text.size() && text[at] != '"'; ++at)
      value += text[at] == '\\' ? unescape() : std::string(1, text[at]);
    if (at == text.size()) fail();
    ++at;
    return value;
  }

  std::string unescape() {  // moves `at` from the backslash to the last character of the escape sequence
    char letter = text.at(++at);
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
