#include "emu/wgmma.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <string>
#include <utility>

#include "emu/machine.h"
#include "emu/matrix.h"
#include "emu/policy.h"
#include "emu/scheduler.h"
#include "emu/tensor_map.h"

namespace llmcore::emu {
namespace {

constexpr uint32_t kPoison = 0x7fc0dead;  // a NaN that no arithmetic makes

Warpgroup& warpgroup_of(const Thread& thread) {
    return thread.block->warpgroups[thread.number / 128];
}

unsigned actor_of(const Thread& thread) {
    const Resident& r = resident();
    return r.global_writer + 1 + thread.block->ordinal * r.warpgroups + thread.number / 128;
}

// ---------------------------------------------------------------------------------------------------------------------
// operands

// The fields of a descriptor (PTX ISA, "Matrix Descriptor Format").
struct Descriptor {
    uint32_t start, leading, stride, base_offset;
    uint32_t swizzle_mask, row_bytes;  // of the swizzle pattern: 7 and 128, 3 and 64, 1 and 32, 0 and 16

    bool swizzled() const { return swizzle_mask != 0; }
};

Descriptor decode(uint64_t bits, Location where) {
    auto field = [&](int from) { return uint32_t(bits >> from & 0x3fff) << 4; };
    Descriptor d{field(0), field(16), field(32), uint32_t(bits >> 49 & 7), 0, 0};
    uint32_t mode = uint32_t(bits >> 62);
    if (mode == 0) {
        if (d.base_offset) fail("wgmma", "a descriptor without a swizzle has a base offset", where);
        d.row_bytes = 16;
        return d;
    }
    d.row_bytes = mode == 1 ? 128 : mode == 2 ? 64 : 32;
    d.swizzle_mask = d.row_bytes / 16 - 1;
    if ((d.start >> 7 & d.swizzle_mask) != d.base_offset)
        fail("wgmma", "the descriptor's start is not on a repeat of its swizzle (base offset)", where);
    return d;
}

// Eight elements of 16 bits, undoing the swizzle.
const uint16_t* chunk(const WgmmaOperation& op, const Descriptor& d, uint32_t address) {
    Block& block = *op.threads[0]->block;
    address = swizzle_address(address, d.swizzle_mask);
    const char* data = block.shared.at(address, 16, op.where);
    record(block, address, 16, AccessKind::kRead, {actor_of(*op.threads[0]), op.tick, op.knows, true}, op.where);
    return reinterpret_cast<const uint16_t*>(data);
}

// out[k][mn] of an operand of `rows` rows (of M or N) and 16 columns (of K).
void read_operand(const WgmmaOperation& op, uint64_t bits, bool transposed, int rows, float (*out)[256]) {
    Descriptor d = decode(bits, op.where);
    if (!transposed) {  // K-major: rows of the pattern are rows of the operand, groups of eight `stride` apart
        if (d.swizzled() && d.start % d.row_bytes + 32 > d.row_bytes)
            fail("wgmma", "a K-major operand runs past the row of its swizzle", op.where);
        for (int row = 0; row < rows; ++row)
            for (int half = 0; half < 2; ++half) {
                uint32_t address = d.start + uint32_t(row / 8) * d.stride + uint32_t(row % 8) * d.row_bytes;
                const uint16_t* data = chunk(op, d, address + uint32_t(half) * (d.swizzled() ? 16 : d.leading));
                for (int i = 0; i < 8; ++i) out[half * 8 + i][row] = float_of_bf16(data[i]);
            }
        return;
    }
    // MN-major: rows of the pattern are k, eight to a group `stride` apart; wider operands go on `leading` bytes later.
    // Without a swizzle the two change places (PTX ISA, "Canonical Layouts").
    if (!d.swizzled()) std::swap(d.leading, d.stride);
    int wide = int(d.row_bytes) / 2;
    for (int k = 0; k < 16; ++k)
        for (int row = 0; row < rows; row += 8) {
            uint32_t address = d.start + uint32_t(row / wide) * d.leading + uint32_t(k / 8) * d.stride;
            const uint16_t* data = chunk(op, d, address + uint32_t(k % 8) * d.row_bytes + uint32_t(row % wide) * 2);
            for (int i = 0; i < 8; ++i) out[k][row + i] = float_of_bf16(data[i]);
        }
}

void read_registers(const WgmmaOperation& op, float (*out)[256]) {
    for (int t = 0; t < 128; ++t)
        for (int r = 0; r < 4; ++r)
            for (int h = 0; h < 2; ++h) {
                int row = t / 32 * 16 + t % 32 / 4 + r % 2 * 8, k = t % 4 * 2 + r / 2 * 8 + h;
                out[k][row] = float_of_bf16(op.registers[t][r] >> 16 * h & 0xffff);
            }
}

// ---------------------------------------------------------------------------------------------------------------------
// execution

Accumulator* find(Thread& thread, const float* home) {
    for (Accumulator& a : thread.wgmma.accumulators)
        if (a.home == home) return &a;
    return nullptr;
}

void execute(WgmmaOperation& op) {
    static float A[16][256], B[16][256], D[64][256];
    ++statistics().matrix_instructions;
    op.executed = true;
    op.a_registers ? read_registers(op, A) : read_operand(op, op.a, op.shape.transposed_a, 64, A);
    read_operand(op, op.b, op.shape.transposed_b, op.shape.n, B);
    for (int m = 0; m < 64; ++m) {
        std::fill_n(D[m], op.shape.n, 0.0f);
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < op.shape.n; ++n) D[m][n] += A[k][m] * B[k][n];
    }
    for (int t = 0; t < 128; ++t) {
        float* value = find(*op.threads[t], op.accumulators[t])->value;
        int row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
        for (int i = 0; i < op.shape.n / 2; ++i) {
            float product = D[row + i / 2 % 2 * 8][column + i / 4 * 8 + i % 2];
            value[i] = op.shape.accumulate ? value[i] + product : product;
        }
    }
}

// In order: an operation adds to what the ones before it left.
void execute_up_to(Warpgroup& group, const WgmmaOperation& last) {
    for (WgmmaOperation& op : group.operations) {
        if (!op.executed) execute(op);
        if (&op == &last) return;
    }
}

void put_in_flight(Thread& thread, float* d, int size) {
    Accumulator* a = find(thread, d);
    if (!a) {
        a = &thread.wgmma.accumulators.emplace_back();
        a->home = d;
        a->size = size;
        a->pending = 0;
        std::copy_n(d, size, a->value);
        for (int i = 0; i < size; ++i) std::memcpy(d + i, &kPoison, sizeof kPoison);
    }
    ++a->pending;
}

void retire(Thread& thread, const WgmmaOperation& op) {
    Accumulator& a = *find(thread, op.accumulators[thread.number % 128]);
    if (--a.pending == 0) {
        for (int i = 0; i < a.size; ++i)
            if (std::memcmp(a.home + i, &kPoison, sizeof kPoison))
                fail("wgmma", "an accumulator was changed while a wgmma on it was in flight", op.where);
        std::copy_n(a.value, a.size, a.home);
        auto& all = thread.wgmma.accumulators;
        all.erase(all.begin() + (&a - all.data()));
    }
    ++thread.wgmma.retired;
    if (!race_detection()) return;
    uint32_t& seen = thread.clock.seen[actor_of(thread)];
    seen = std::max(seen, op.tick);
}

void drop_retired(const Thread& thread, Warpgroup& group) {
    const Thread* threads = thread.block->threads + thread.number / 128 * 128;
    int retired = INT_MAX;
    for (int t = 0; t < 128; ++t) retired = std::min(retired, threads[t].wgmma.retired);
    for (; group.first < retired; ++group.first) group.operations.pop_front();
}

void complete_issue(Warpgroup& group, WgmmaOperation& op) {
    if (race_detection()) {
        op.knows = op.threads[0]->clock;
        op.tick = ++resident().async_ticks;
    }
    if (lands_now(policy().math)) execute_up_to(group, op);
    for (Thread* thread : group.waiting) wake(*thread);
    group.waiting.clear();
}

}  // namespace

void wgmma_fence() {
    self().wgmma.fenced = true;
}

void wgmma(float* d, const WgmmaShape& shape, const uint32_t* a_registers, uint64_t a, uint64_t b, Location where) {
    Thread& thread = self();
    if (thread.block->size % 128) fail("wgmma", "the block is not made of whole warpgroups", where);
    if (shape.n < 8 || shape.n > 256 || shape.n % 8) fail("wgmma", "N is not a multiple of 8 up to 256", where);
    if (!thread.wgmma.fenced) fail("wgmma", "no wgmma.fence before the first wgmma of the batch", where);
    Warpgroup& group = warpgroup_of(thread);
    size_t place_in_queue = size_t(thread.wgmma.issued++ - group.first);
    if (place_in_queue == group.operations.size()) {
        WgmmaOperation& fresh = group.operations.emplace_back();
        fresh.shape = shape;
        fresh.a = a;
        fresh.b = b;
        fresh.a_registers = a_registers != nullptr;
        fresh.where = where;
    }
    WgmmaOperation& op = group.operations[place_in_queue];
    if (!(op.shape == shape) || op.a != a || op.b != b || op.where.line != where.line)
        fail("divergence", "the threads of a warpgroup disagree on a wgmma's operands", where);
    unsigned t = thread.number % 128;
    op.threads[t] = &thread;
    op.accumulators[t] = d;
    if (a_registers) std::copy_n(a_registers, 4, op.registers[t]);
    put_in_flight(thread, d, shape.n / 2);
    if (++op.arrived == 128) complete_issue(group, op);
}

void wgmma_commit() {
    WgmmaState& state = self().wgmma;
    state.groups.push_back(state.issued);
}

void wgmma_wait(int groups_left, Location where) {
    Thread& thread = self();
    WgmmaState& state = thread.wgmma;
    Warpgroup& group = warpgroup_of(thread);
    state.fenced = false;
    int due = int(state.groups.size()) - groups_left;
    if (due <= 0) return;
    int up_to = state.groups[size_t(due - 1)];
    state.groups.erase(state.groups.begin(), state.groups.begin() + due);
    while (state.retired < up_to) {
        WgmmaOperation& op = group.operations[size_t(state.retired - group.first)];
        if (op.arrived < 128) {
            group.waiting.push_back(&thread);
            wait("wgmma.wait_group", where);
            continue;
        }
        execute_up_to(group, op);
        retire(thread, op);
    }
    drop_retired(thread, group);
}

void set_max_registers(int count, Location where) {
    if (count < 24 || count > 256 || count % 8)
        fail("setmaxnreg", "the count must be a multiple of 8 in 24..256, got " + std::to_string(count), where);
    warpgroup_of(self()).registers = count;
}

void check_registers_at_end() {
    for (const auto& cluster : resident().clusters)
        for (const auto& block : cluster->blocks) {
            int registers = 0;
            for (const Warpgroup& group : block->warpgroups) registers += group.registers * 128;
            if (registers > 65536)
                throw Error("setmaxnreg", "the warpgroups of a block ask for " + std::to_string(registers) +
                                              " registers; there are 65536");
        }
}

void check_wgmma_at_exit(const Thread& thread) {
    if (!thread.wgmma.accumulators.empty()) fail("wgmma", "the thread exits with a wgmma in flight", {"exit", 0, 0});
}

}  // namespace llmcore::emu
