// What code compiled with -fsanitize=thread calls. Linked in place of ThreadSanitizer's library; the emulator itself is
// never compiled with that flag.
#include <optional>

#include "emu/machine.h"
#include "emu/race.h"
#include "emu/scheduler.h"

using llmcore::emu::AccessKind;

namespace {

// The compiler takes these calls for ones that never throw, and an exception through them would end the process.
void record_access(const void* pointer, size_t bytes, AccessKind kind, llmcore::emu::Location where) {
    if (llmcore::emu::current_thread() == nullptr) return;
    std::optional<llmcore::emu::Error> found;
    try {
        llmcore::emu::record_pointer(pointer, bytes, kind, where);
    } catch (const llmcore::emu::Error& error) {
        found.emplace(error);
    }
    if (found) llmcore::emu::stop(*found);
}

}  // namespace

#define CALLER {"", 0, reinterpret_cast<uintptr_t>(__builtin_return_address(0))}
#define HOOKS(n)                                         \
    void __tsan_read##n(void* p) {                       \
        record_access(p, n, AccessKind::kRead, CALLER);  \
    }                                                    \
    void __tsan_write##n(void* p) {                      \
        record_access(p, n, AccessKind::kWrite, CALLER); \
    }                                                    \
    void __tsan_unaligned_read##n(void* p) {             \
        record_access(p, n, AccessKind::kRead, CALLER);  \
    }                                                    \
    void __tsan_unaligned_write##n(void* p) {            \
        record_access(p, n, AccessKind::kWrite, CALLER); \
    }                                                    \
    void __tsan_volatile_read##n(void* p) {              \
        record_access(p, n, AccessKind::kRead, CALLER);  \
    }                                                    \
    void __tsan_volatile_write##n(void* p) {             \
        record_access(p, n, AccessKind::kWrite, CALLER); \
    }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, unsigned long n) {
    record_access(p, n, AccessKind::kRead, CALLER);
}
void __tsan_write_range(void* p, unsigned long n) {
    record_access(p, n, AccessKind::kWrite, CALLER);
}
void __tsan_init() {
    llmcore::emu::enable_race_detection();
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Atomics do not race with each other, and on one operating system thread plain accesses are atomic.
#define ATOMICS(bits)                                                                                       \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) {                      \
        return *p;                                                                                          \
    }                                                                                                       \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t value, int) {               \
        *p = value;                                                                                         \
    }                                                                                                       \
    uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t* p, uint##bits##_t value, int) { \
        uint##bits##_t old = *p;                                                                            \
        *p = static_cast<uint##bits##_t>(old + value);                                                      \
        return old;                                                                                         \
    }
ATOMICS(8)
ATOMICS(32)
ATOMICS(64)
}
