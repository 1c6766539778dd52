#include "core/runtime.h"

#include <charconv>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/check.h"
#include "core/cuda_device.h"

namespace llmcore {

namespace {

std::string why_no_cuda() {
    if constexpr (kWithCuda) return cuda::why_no_device();
    return "this llmcore was built without the CUDA backend";
}

int cuda_devices() {
    if constexpr (kWithCuda) return cuda::device_count();
    return 0;
}

thread_local Device device_of_this_thread;
thread_local bool inside_a_dispatch = false;

std::string where_cuda_is() {
    return concat("families with CUDA kernels: ", *cuda_families() ? cuda_families() : "none", "; use device=\"cpu\"");
}

}  // namespace

Device parse_device(const std::string& name) {
    if (name == "cpu") return {DeviceType::kCpu, 0};
    bool is_cuda = name == "cuda" || (name.rfind("cuda:", 0) == 0 && name.size() > 5 &&
                                      name.find_first_not_of("0123456789", 5) == std::string::npos);
    LLMCORE_CHECK(is_cuda, "device must be \"cpu\", \"cuda\" or \"cuda:<index>\", got \"", name, "\"");
    const int count = cuda_devices();
    LLMCORE_CHECK(count > 0, "device \"", name, "\" is not available: ", why_no_cuda(),
                  "; use device=\"cpu\" or device=\"auto\"");
    int index = 0;
    if (name.size() > 5) std::from_chars(name.data() + 5, name.data() + name.size(), index);
    LLMCORE_CHECK(name.size() < 10 && index < count, "device \"", name,
                  "\" is not available: the last one is \"cuda:", count - 1, "\"");
    return {DeviceType::kCuda, index};
}

std::string name_of(Device device) {
    return device.type == DeviceType::kCpu ? "cpu" : concat("cuda:", device.index);
}

const char* name_of(Isa isa) {
    switch (isa) {
        case Isa::kAmx:
            return "amx";
        case Isa::kAvx512Bf16:
            return "avx512_bf16";
        case Isa::kAvx512:
            return "avx512";
        case Isa::kAvx2:
            return "avx2";
        default:
            return "baseline";
    }
}

namespace {

#if defined(__x86_64__)
bool has_amx_bf16() {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kBf16) != 0 && (edx & kTile) != 0;
}

// The tile registers are 8 KiB that the system must save at every switch of threads, so Linux wants a process to ask
// for them: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), once for all threads, kept by children. It refuses
// where the kernel (before 5.16) or a hypervisor cannot save them, or a thread's signal stack is too small.
bool may_use_amx() {
#if defined(__linux__)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}
#endif

// By feature bits, never by vendor: libraries that ask for the vendor run AMD's AVX-512 at half its speed.
Isa best_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd")) {
        if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
        if (!has_amx_bf16()) return Isa::kAvx512Bf16;
        // Cores with AMX run vdpbf16ps at half the rate of float multiply-adds (measured on one Xeon: 115 and 230
        // GFLOP/s), so without tiles plain AVX-512 is faster.
        return may_use_amx() ? Isa::kAmx : Isa::kAvx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return Isa::kAvx2;
#endif
    return Isa::kBaseline;
}

Isa chosen_isa() {
    Isa best = best_isa();
    const char* wish = std::getenv("LLMCORE_ISA");
    if (wish == nullptr || *wish == '\0') return best;
    for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
        if (std::string(wish) != name_of(isa)) continue;
        LLMCORE_CHECK(isa <= best, "LLMCORE_ISA=", wish, ": this processor reaches only ", name_of(best));
        return isa;
    }
    throw std::invalid_argument(concat("LLMCORE_ISA must be baseline, avx2, avx512, avx512_bf16 or amx, got ", wish));
}

}  // namespace

Isa cpu_isa() {
    static const Isa isa = chosen_isa();
    return isa;
}

const char* cuda_build() {
    return LLMCORE_CUDA_BUILD;
}

const char* cuda_families() {
    return LLMCORE_CUDA_FAMILIES;
}

void refuse_cuda(const char* family, Device device) {
    throw std::invalid_argument(concat(family, " has no CUDA kernels in this version, so its ops do not run on ",
                                       name_of(device), "; ", where_cuda_is()));
}

DeviceFacts device_facts(Device device) {
    LLMCORE_CHECK(device.type == DeviceType::kCuda, "device_facts: expected a CUDA device, got ", name_of(device));
    DeviceFacts facts{};
    if constexpr (kWithCuda) facts = cuda::describe(device.index);
    return facts;
}

void set_random_shift(uint64_t shift, Device device) {
    LLMCORE_CHECK(device.type == DeviceType::kCuda,
                  "set_random_shift: only graphs of a CUDA device are replayed, and this is ", name_of(device));
    if constexpr (kWithCuda) cuda::set_random_shift(shift, device.index);
}

void synchronize(Device device) {
    if constexpr (kWithCuda)
        if (device.type == DeviceType::kCuda) cuda::synchronize(device.index);
}

Device running_on() {
    return device_of_this_thread;
}

void check_reachable(Device device) {
    if (device == device_of_this_thread) return;
    LLMCORE_CHECK(inside_a_dispatch, "an op reads one of its tensors on the host, and it is on ", name_of(device),
                  ": in this version the op does not run there; ", where_cuda_is());
    throw std::invalid_argument(concat("expected a tensor on ", name_of(device_of_this_thread), ", got one on ",
                                       name_of(device),
                                       ": all tensors of an op must be on one device; Tensor.to(device) copies"));
}

RunningOn::RunningOn(Device device) : before_(device_of_this_thread), inside_before_(inside_a_dispatch) {
    device_of_this_thread = device;
    inside_a_dispatch = true;
}

RunningOn::~RunningOn() {
    device_of_this_thread = before_;
    inside_a_dispatch = inside_before_;
}

}  // namespace llmcore
