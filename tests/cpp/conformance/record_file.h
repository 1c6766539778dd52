// The conformance file: what each instruction gave on the device where the file was recorded, with what it was given.
//
//   "LLMCONF1", then: device (text), compute capability (10 * major + minor), number of records, the records, a
//   checksum of everything before it. A record: name (text), input (bytes), output (bytes). Texts and byte strings are
//   a 32-bit length and their bytes; numbers are little-endian.
#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace conformance {

using Bytes = std::vector<unsigned char>;

struct Record {
    std::string name;
    Bytes input, output;
};

struct File {
    std::string device;
    uint32_t capability = 0;
    std::vector<Record> records;
};

// FNV-1a, 64 bits.
inline uint64_t checksum(const unsigned char* data, size_t bytes) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ data[i]) * 0x100000001b3ull;
    return hash;
}

class Writer {
  public:
    void number(uint64_t value, int bytes) {
        for (int i = 0; i < bytes; ++i) data_.push_back(static_cast<unsigned char>(value >> 8 * i));
    }
    template <class Container>
    void string(const Container& bytes) {
        number(bytes.size(), 4);
        data_.insert(data_.end(), bytes.begin(), bytes.end());
    }
    const Bytes& data() const { return data_; }

  private:
    Bytes data_;
};

class Reader {
  public:
    Reader(const std::string& path, const Bytes& data, size_t end) : path_(path), data_(data), end_(end) {}

    uint64_t number(int bytes) {
        need(static_cast<size_t>(bytes));
        uint64_t value = 0;
        for (int i = 0; i < bytes; ++i) value |= uint64_t(data_[at_++]) << 8 * i;
        return value;
    }
    template <class Container>
    Container string() {
        size_t size = number(4);
        need(size);
        at_ += size;
        return Container(data_.begin() + long(at_ - size), data_.begin() + long(at_));
    }

  private:
    void need(size_t bytes) const {
        if (end_ - at_ < bytes) throw std::runtime_error(path_ + ": the conformance file is cut short");
    }

    const std::string& path_;
    const Bytes& data_;
    size_t end_, at_ = 8;
};

inline const char* magic() {
    return "LLMCONF1";
}

inline void write_file(const std::string& path, const File& file) {
    Writer w;
    for (int i = 0; i < 8; ++i) w.number(static_cast<unsigned char>(magic()[i]), 1);
    w.string(file.device);
    w.number(file.capability, 4);
    w.number(file.records.size(), 4);
    for (const Record& record : file.records) {
        w.string(record.name);
        w.string(record.input);
        w.string(record.output);
    }
    w.number(checksum(w.data().data(), w.data().size()), 8);
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(w.data().data()), static_cast<std::streamsize>(w.data().size()));
    out.close();
    if (!out) throw std::runtime_error(path + ": the conformance file cannot be written");
}

// Throws if it is not such a file, or not whole.
inline File read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error(path + ": there is no such file");
    Bytes data{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (data.size() < 16 || std::string(data.begin(), data.begin() + 8) != magic())
        throw std::runtime_error(path + ": this is not a conformance file; record one on a machine with a GPU");
    size_t end = data.size() - 8;
    uint64_t stored = 0;
    for (int i = 0; i < 8; ++i) stored |= uint64_t(data[end + size_t(i)]) << 8 * i;
    if (stored != checksum(data.data(), end))
        throw std::runtime_error(path + ": the conformance file is damaged (checksum); record it again");
    Reader reader(path, data, end);
    File file;
    file.device = reader.string<std::string>();
    file.capability = static_cast<uint32_t>(reader.number(4));
    size_t count = reader.number(4);
    for (size_t i = 0; i < count; ++i) {
        Record& record = file.records.emplace_back();
        record.name = reader.string<std::string>();
        record.input = reader.string<Bytes>();
        record.output = reader.string<Bytes>();
    }
    return file;
}

}  // namespace conformance
