// Reads what tests/support/native_dump.py writes: lowered networks with images and the reference's logits.
//
//   file    "GELULESS", then one value: a list of (name, tolerance, network, images, logits)
//   value   kind, uint32 count, count elements. Kinds: ( a list, whose elements are values; { a dataclass, whose elements are the
//           name and the value of each field, in their order; q int64, d double, s text, b int8, B uint8, h int16, i int32,
//           f float32; n nothing, for None. Little-endian, not aligned.
//
// Every count is checked against the bytes that are left; what it must be is checked by read_spec.h. Any contradiction throws.

#pragma once

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "check_cases.h"
#include "read_spec.h"

namespace geluless {

static_assert(std::endian::native == std::endian::little);

class Reader {
 public:
  Reader(const std::vector<uint8_t>& bytes, Store& store)
      : begin_(bytes.data()), at_(begin_), end_(begin_ + bytes.size()), store_(store) {}

  void magic() {
    expect(end_ - at_ >= 8 && std::memcmp(at_, "GELULESS", 8) == 0, "no dump of networks");
    at_ += 8;
  }
  void end() const { expect(at_ == end_, "more follows than belongs to the dump"); }

  uint32_t list() { return head('(', 5); }  // every element takes five bytes at least
  void object() { head('{', 10); }
  bool none() {
    if (at_ == end_ || *at_ != 'n') return false;
    expect(head('n', 1) == 0, "None has no elements");
    return true;
  }
  template <class T>
  std::pair<const T*, size_t> array() {
    constexpr char kind = std::is_same_v<T, int64_t>   ? 'q'
                          : std::is_same_v<T, double>  ? 'd'
                          : std::is_same_v<T, int8_t>  ? 'b'
                          : std::is_same_v<T, uint8_t> ? 'B'
                          : std::is_same_v<T, int16_t> ? 'h'
                          : std::is_same_v<T, int32_t> ? 'i'
                          : std::is_same_v<T, float>   ? 'f'
                                                       : 's';
    const size_t count = head(kind, sizeof(T));
    T* out = store_.take<T>(count);
    std::memcpy(out, at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return {out, count};
  }
  template <class T>
  const T* array(size_t expected) {
    const auto [data, count] = array<T>();
    expect(count == expected, std::to_string(expected) + " elements expected");
    return data;
  }
  std::string text() {
    const auto [data, count] = array<char>();
    return {data, count};
  }
  void expect(bool condition, const std::string& what) const {
    if (!condition) throw std::runtime_error("byte " + std::to_string(at_ - begin_) + ": " + what);
  }

 private:
  uint32_t head(char kind, size_t size) {
    expect(end_ - at_ >= 5, "the file ends too early");
    expect(*at_ == kind, std::string("a value of kind ") + kind + " expected");
    uint32_t count;
    std::memcpy(&count, at_ + 1, 4);
    expect(count <= static_cast<size_t>(end_ - at_ - 5) / size, "the file ends too early");
    at_ += 5;
    return count;
  }

  const uint8_t *begin_, *at_, *end_;
  Store& store_;
};

// The fields of a dataclass, which must be asked for in their order.
class FileObject {
 public:
  explicit FileObject(Reader& reader) : reader_(&reader) { reader.object(); }

  int64_t integer(const char* name, int64_t low, int64_t high) const { return field(name), number(low, high); }
  double real(const char* name) const { return field(name), *reader_->array<double>(1); }
  bool flag(const char* name) const { return integer(name, 0, 1) != 0; }
  std::string text(const char* name) const { return field(name), reader_->text(); }
  template <size_t kCount>
  std::array<int, kCount> integers(const char* name, int low, int high) const {
    field(name);
    reader_->expect(reader_->list() == kCount, std::to_string(kCount) + " integers expected");
    std::array<int, kCount> out;
    for (int& value : out) value = static_cast<int>(number(low, high));
    return out;
  }
  template <class T>
  const T* array(const char* name, size_t count, bool optional = false) const {
    field(name);
    return optional && reader_->none() ? nullptr : reader_->array<T>(count);
  }
  FileObject object(const char* name) const { return field(name), FileObject(*reader_); }
  std::optional<FileObject> optional_object(const char* name) const {
    field(name);
    return reader_->none() ? std::nullopt : std::optional(FileObject(*reader_));
  }
  template <class F>
  void for_each(const char* name, F f) const {
    field(name);
    for (uint32_t left = reader_->list(); left > 0; --left) f(FileObject(*reader_));
  }

 private:
  void field(const char* name) const {
    const std::string found = reader_->text();
    reader_->expect(found == name, std::string("field ") + name + " expected, found " + found);
  }
  int64_t number(int64_t low, int64_t high) const {
    const int64_t value = *reader_->array<int64_t>(1);
    reader_->expect(low <= value && value <= high, "an integer out of range");
    return value;
  }

  Reader* reader_;
};

struct FileCase {
  std::string name;
  double tolerance;  // of a logit; 0 demands equality
  NetworkSpec network;
  int images;
  const float *pixels, *logits;
};

inline std::vector<FileCase> read_cases(Reader reader) {
  reader.magic();
  std::vector<FileCase> out(reader.list());
  for (FileCase& c : out) {
    reader.expect(reader.list() == 5, "name, tolerance, network, images and logits expected");
    c.name = reader.text();
    c.tolerance = *reader.array<double>(1);
    c.network = read_network(FileObject(reader));
    const auto [pixels, count] = reader.array<float>();
    const size_t image = pixels_of(c.network);
    reader.expect(count > 0 && count % image == 0 && count / image < 1000, "whole images expected");
    c.images = static_cast<int>(count / image);
    c.pixels = pixels;
    c.logits = reader.array<float>(count / image * static_cast<size_t>(c.network.classes));
  }
  reader.end();
  return out;
}

}  // namespace geluless
