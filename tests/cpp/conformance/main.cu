// conformance record FILE     runs every case that this device can and stores what came out
// conformance replay FILE     runs the file's cases on its inputs and compares; complains of missing cases
// conformance list            the cases
//
// Recorded once on a GPU and replayed by the emulated build, the file says whether the emulator does what hardware
// does.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "case.h"

namespace conformance {
namespace {

uint32_t capability() {
    int device = 0;
    cudaDeviceProp properties;
    LLMCORE_CUDA_CHECK(cudaGetDevice(&device));
    LLMCORE_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    return static_cast<uint32_t>(properties.major * 10 + properties.minor);
}

std::string device_name() {
    int device = 0;
    cudaDeviceProp properties;
    LLMCORE_CUDA_CHECK(cudaGetDevice(&device));
    LLMCORE_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
#if LLMCORE_EMULATE
    return std::string("emulator of ") + properties.name;
#else
    return properties.name;
#endif
}

Bytes run(const Case& c, const Bytes& input) {
    DeviceBytes in(std::max<size_t>(input.size(), 16)), out(c.output_bytes);
    in.put(input);
    out.fill(0xff);
    c.start(out.at(), in.at());
    return out.get();
}

// What of the outputs differs, "" if nothing.
std::string difference(const Case& c, const Bytes& expected, const Bytes& found) {
    if (expected.size() != found.size()) return "the outputs differ in size";
    if (c.tolerance == 0) {
        auto at = std::mismatch(expected.begin(), expected.end(), found.begin()).first;
        return at == expected.end() ? "" : "byte " + std::to_string(at - expected.begin()) + " differs";
    }
    std::vector<float> a(expected.size() / 4), b(expected.size() / 4);
    std::memcpy(a.data(), expected.data(), expected.size());
    std::memcpy(b.data(), found.data(), found.size());
    float largest = 0;
    for (float value : a) largest = std::max(largest, std::fabs(value));
    for (size_t i = 0; i < a.size(); ++i)
        if (!(std::fabs(double(a[i]) - b[i]) <= c.tolerance * largest))
            return "float " + std::to_string(i) + " is " + std::to_string(b[i]) + ", recorded " + std::to_string(a[i]);
    return "";
}

int record(const std::string& path) {
    File file{device_name(), capability(), {}};
    for (const Case& c : all_cases()) {
        if (c.capability > int(file.capability)) continue;
        Random random(checksum(reinterpret_cast<const unsigned char*>(c.name.data()), c.name.size()));
        Record& r = file.records.emplace_back();
        r.name = c.name;
        r.input.resize(c.input_bytes);
        for (unsigned char& byte : r.input) byte = static_cast<unsigned char>(random.bits());
        if (c.fill) c.fill(random, r.input);
        r.output = run(c, r.input);
    }
    write_file(path, file);
    std::printf("%zu cases of %s recorded in %s\n", file.records.size(), file.device.c_str(), path.c_str());
    return 0;
}

int replay(const std::string& path) {
    File file = read_file(path);
    std::set<std::string> recorded;
    int failed = 0;
    for (const Record& r : file.records) {
        recorded.insert(r.name);
        auto found =
            std::find_if(all_cases().begin(), all_cases().end(), [&](const Case& c) { return c.name == r.name; });
        std::string wrong;
        if (found == all_cases().end())
            wrong = "there is no such case any more; record the file again";
        else if (r.input.size() != found->input_bytes || r.output.size() != found->output_bytes)
            wrong = "the case has changed its size; record the file again";
        else if (found->capability > int(capability()))
            continue;
        else
            wrong = difference(*found, r.output, run(*found, r.input));
        if (wrong.empty()) continue;
        ++failed;
        std::printf("FAIL %s: %s\n", r.name.c_str(), wrong.c_str());
    }
    for (const Case& c : all_cases())
        if (c.capability <= int(file.capability) && !recorded.count(c.name)) {
            ++failed;
            std::printf("FAIL %s: not in the file; record it again\n", c.name.c_str());
        }
    std::printf("%zu cases of %s, %d failed\n", file.records.size(), file.device.c_str(), failed);
    return failed != 0;
}

int run_command(int argc, char** argv) {
    add_warp_cases();
    add_memory_cases();
    add_bulk_cases();
    add_wgmma_cases();
    const std::string verb = argc > 1 ? argv[1] : "";
    if (verb == "list") {
        for (const Case& c : all_cases()) std::printf("%s\n", c.name.c_str());
        return 0;
    }
    if (argc == 3 && verb == "record") return record(argv[2]);
    if (argc == 3 && verb == "replay") return replay(argv[2]);
    std::fprintf(stderr, "usage: conformance record FILE | replay FILE | list\n");
    return 2;
}

}  // namespace
}  // namespace conformance

int main(int argc, char** argv) {
    try {
        return conformance::run_command(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
