// The step of a pointwise rule: one loop per phase over all tensors, with the code that emit.py writes for the rule.
//
// rule.h defines: FOR_EACH_SLOT, SLOTS, SCALARS, SUMS, COEFFICIENTS, LEARNED; Element, an element's slots in registers;
// Step, the scalars of an update, made from coefficients, hyper-parameters, t and scalar slots, and StepFloats, the same
// in fp32; update(); next_scalars(); Slope, add_sums() and combine() for the hypergradient.
//
// The state is as in engines/eager.py. Scalars are computed in double. The order of sums doesn't depend on the number of
// threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "threads.h"

// Always inlined: a call, or a struct outside of registers, would keep a loop from being vectorized.
#define INLINE inline __attribute__((always_inline))

namespace {

#include "weights.h"

template <typename T>
INLINE T sign_of(T x) { return T(x > 0) - T(x < 0); }

// a b + c, in one operation if the processor has it; only in sums, whose rounding doesn't change the update.
INLINE float fused(float a, float b, float c) {
#ifdef __clang__  // which doesn't vectorize sums with the builtin
#pragma clang fp contract(on)
    return a * b + c;
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

#ifdef STATE_BF16
typedef uint16_t State;
INLINE float load(State x) {
    const uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
// Stochastic rounding, which keeps the mean exact: the new share of an average may be far below its last digit.
INLINE State store(float x, uint32_t random) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return State((bits + (random & 0xffff)) >> 16);
}
#else
typedef float State;
INLINE float load(State x) { return x; }
INLINE State store(float x, uint32_t) { return x; }
#endif

// A function of element, slot and step, the same on every machine and in engines/eager.py.
INLINE uint32_t random_bits(uint32_t element, uint32_t seed) {
    uint32_t x = element * 0x9E3779B9u + seed;
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}
INLINE uint32_t seed_of_stream(double t, uint32_t stream) { return uint32_t(int64_t(t)) * 0x2545F491u + stream; }
INLINE uint32_t seed_of(double t, int slot) { return seed_of_stream(t, uint32_t(slot + 1) * 0x9E3779B1u); }

constexpr int MAX_SLOTS = 12, MAX_SCALARS = 8;

// The state of a parameter tensor. Python fills it in once, in this order; unused pointers are null.
struct StatePointers {
    int64_t size;                 // elements
    State *slots[MAX_SLOTS];
    double *scalars[MAX_SCALARS]; // slots with one number per tensor
    double *t;
    State *gradient;              // of the last update
    double *applied;              // its learning rate and coefficients; null if nothing is learned
    float *anchor;                // of the trace along which lr is learned; null without one
};

// A parameter tensor in one step. Python fills it in at each step.
struct StepPointers {
    const StatePointers *state;
    Weight *p;         // parameter
    float *g;          // gradient of this step
    const double *now; // rate and coefficients of this step; then weight decay, horizon, hyper-parameters
    int64_t scope;     // row of its learned coefficients
    int64_t stream;    // of the random bits with which its weights are rounded
};

struct Tensor : StatePointers, StepPointers {
    explicit Tensor(const StepPointers &step) : StatePointers(*step.state), StepPointers(step) {}
};

#include "rule.h"

constexpr int64_t CHUNK = 16384;  // elements in a thread's piece of work
constexpr int64_t BLOCK = 1024;   // elements summed in fp32 before the sum goes to double
constexpr int HYPERGRADIENTS = LEARNED + 1;

double weight_decay_of(const Tensor &x) { return x.now[1 + COEFFICIENTS]; }
double horizon_of(const Tensor &x) { return x.now[1 + COEFFICIENTS + 1]; }

// `Which` (Step or Slope) of the update that was made with `values`: its learning rate and coefficients.
template <typename Which>
Which at(const Tensor &x, const double *values, double t, const double *scalars) {
    return Which(values + 1, x.now + 1 + COEFFICIENTS + 2, t, scalars);
}

// Scalar slots as they are stored.
struct Scalars {
    double w[MAX_SCALARS];
    explicit Scalars(const Tensor &x) {
        for (int j = 0; j < SCALARS; j++) w[j] = *x.scalars[j];
    }
    void move(const Step &step) {
        double next[MAX_SCALARS];
        next_scalars(step, next);
        std::copy(next, next + SCALARS, w);
    }
};

// The last update, t, and this one, t + 1. If nothing is learned, the stored slots are those between the two.
struct Steps {
    Scalars between;
    Step last, now;
    explicit Steps(const Tensor &x)
        : between(x), last(at<Step>(x, x.applied ? x.applied : x.now, std::max(*x.t, 1.0), between.w)), now(last) {
        if (settles(x)) between.move(last);
        now = at<Step>(x, x.now, *x.t + 1, between.w);
    }
    static bool settles(const Tensor &x) { return x.applied && *x.t >= 1; }
};

float dot(const float *__restrict g, const Weight *__restrict p, int64_t begin, int64_t end) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++) sum += g[i] * of_weight(p[i]);
    return sum;
}

#ifdef TRACED
// < g, theta - A >
float along_trace(const Tensor &x, int64_t begin, int64_t end) {
    const float *__restrict g = x.g, *__restrict anchor = x.anchor;
    const Weight *__restrict p = x.p;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++) sum += g[i] * (of_weight(p[i]) - anchor[i]);
    return sum;
}
#endif

// Moves weights and slots. While learning, SETTLE first moves the slots over the last update and stores them.
template <bool LEARNING, bool SETTLE>
void move_chunk(const Tensor &x, const Steps &steps, float keep, float lr, int64_t begin, int64_t end) {
#ifdef TRACED
    float *__restrict anchor = x.anchor;
    const float share = *x.t >= 1 ? 1 - horizon_of(x) * (1 - x.now[0] * weight_decay_of(x)) : 1;
#endif
    const StepFloats then(steps.last), now(steps.now);
    const double t = *x.t;
    const float *__restrict g_now = x.g;
    Weight *__restrict p = x.p;
    State *__restrict gradient = x.gradient;
#define DECLARE(I, NAME)               \
    State *__restrict NAME = x.slots[I]; \
    const uint32_t seed_##NAME = seed_of(t, I);
    FOR_EACH_SLOT(DECLARE)
#undef DECLARE
    const uint32_t seed_gradient = seed_of(t, SLOTS), seed_p = seed_of_stream(t, uint32_t(x.stream));
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        Element s;
#define LOAD(I, NAME) s.NAME = load(NAME[i]);
        FOR_EACH_SLOT(LOAD)
#undef LOAD
#define STORE(I, NAME) NAME[i] = store(s.NAME, random_bits(uint32_t(i), seed_##NAME));
        if (LEARNING && SETTLE) {
            update(then, load(gradient[i]), s);
            FOR_EACH_SLOT(STORE)
        }
        const float g = g_now[i], weight = of_weight(p[i]);
        const float u = update(now, g, s);
#ifdef TRACED
        anchor[i] += share * (weight - anchor[i]);
#endif
        p[i] = rounded(keep * weight - lr * u, random_bits(uint32_t(i), seed_p));
        if (LEARNING) {
            gradient[i] = store(g, random_bits(uint32_t(i), seed_gradient));
        } else {
            FOR_EACH_SLOT(STORE)
        }
#undef STORE
    }
}

// Whether no element is beyond the limit: as integers, the bits of |x| are in the order of |x|, infinity and NaN last.
bool is_usable(const float *g, float limit, int64_t begin, int64_t end) {
    int32_t bad = 0, largest;
    std::memcpy(&largest, &limit, 4);
#pragma omp simd reduction(| : bad)
    for (int64_t i = begin; i < end; i++) {
        int32_t bits;
        std::memcpy(&bits, g + i, 4);
        bad |= (bits & 0x7fffffff) > largest;
    }
    return !bad;
}

// All tensors cut into chunks, so that threads get equal shares of many small ones and of few large ones.
struct Chunk {
    int64_t tensor, begin, end;
};

int64_t count_chunks(const StepPointers *steps, int64_t count) {
    int64_t total = 0;
    for (int64_t j = 0; j < count; j++) total += (steps[j].state->size + CHUNK - 1) / CHUNK;
    return total;
}

struct ChunkedTensors {
    const Array<Tensor> xs;
    const Array<Chunk> chunks;
    ChunkedTensors(const StepPointers *steps, int64_t count) : xs(count), chunks(count_chunks(steps, count)) {
        int64_t made = 0;
        for (int64_t j = 0; j < count; j++) {
            xs[j] = Tensor(steps[j]);
            for (int64_t begin = 0; begin < xs[j].size; begin += CHUNK)
                chunks[made++] = {j, begin, std::min(begin + CHUNK, xs[j].size)};
        }
    }
};

// Sums over one chunk, from which its hypergradients follow.
struct Sums {
    double of_rule[SUMS + 1] = {}, along_p = 0, along_trace = 0;
};

// Computes them (`slope` is null before the first update); returns whether the gradient is usable.
bool sum_chunk(const Tensor &x, const Chunk &c, const Slope *slope, bool along_p, float limit, Sums &to) {
    bool usable = true;
    for (int64_t b = c.begin; b < c.end; b += BLOCK) {
        const int64_t end = std::min(b + BLOCK, c.end);
        if (slope) add_sums(x, *slope, b, end, to.of_rule);
        if (along_p) to.along_p += dot(x.g, x.p, b, end);
#ifdef TRACED
        to.along_trace += along_trace(x, b, end);
#endif
        usable &= is_usable(x.g, limit, b, end);  // last: the sums have loaded it
    }
    return usable;
}

// -lr < g, d theta / dq >; learning/hypergradient.py has the formula of the last, ln lr.
void derivatives(const Tensor &x, const Slope &slope, const Sums &sums, double *h) {
    combine(slope, sums.of_rule, h);
    const double lr = x.applied[0], decay = weight_decay_of(x), kept = 1 - lr * decay;
    if (kept != 0) h[LEARNED] = (h[LEARNED] + decay * sums.along_p) / kept;
    for (int q = 0; q < HYPERGRADIENTS; q++) h[q] *= -lr;
}

// The hypergradients of one chunk, 0 before its first update; returns whether its gradient is usable.
bool chunk_hypergradients(const Tensor &x, const Chunk &c, bool of_lr, float limit, double *h) {
    Sums sums;
    bool usable;
    if (x.applied && *x.t >= 1) {
        const Slope slope = at<Slope>(x, x.applied, *x.t, Scalars(x).w);
        usable = sum_chunk(x, c, &slope, of_lr && weight_decay_of(x) != 0, limit, sums);
        derivatives(x, slope, sums, h);
    } else {
        usable = sum_chunk(x, c, nullptr, false, limit, sums);
    }
#ifdef TRACED
    h[LEARNED] = *x.t >= 1 ? sums.along_trace : 0;
#endif
    return usable;
}

}  // namespace

extern "C" {

// For a check of the layout: a mistake would write anywhere.
int64_t state_bytes() { return sizeof(StatePointers); }
int64_t step_bytes() { return sizeof(StepPointers); }

// Whether every gradient is within `limit`.
void check(const StepPointers *steps, int64_t count, int threads, double limit, bool *all_usable) {
    const ChunkedTensors all(steps, count);
    const Array<Chunk> &chunks = all.chunks;
    const Array<char> usable(chunks.size);
    share_out(chunks.size, threads, [&](int64_t j) {
        const Chunk &c = chunks[j];
        usable[j] = is_usable(all.xs[c.tensor].g, float(limit), c.begin, c.end);
    });
    *all_usable = true;
    for (int64_t j = 0; j < chunks.size; j++) *all_usable = *all_usable && usable[j];
}

// out, (scopes, columns): hypergradients of all tensors, `columns` LEARNED, or one more with lr's; then whether every
// gradient is within `limit`.
void hypergradients(const StepPointers *steps, int64_t count, int threads, double limit, int of_lr, int64_t scopes, int columns,
                    double *out, bool *all_usable) {
    const ChunkedTensors all(steps, count);
    const Array<Chunk> &chunks = all.chunks;
    const Array<double> h(chunks.size * HYPERGRADIENTS);
    const Array<char> usable(chunks.size);
    share_out(chunks.size, threads, [&](int64_t j) {
        const Tensor &x = all.xs[chunks[j].tensor];
        usable[j] = chunk_hypergradients(x, chunks[j], of_lr, float(limit), &h[j * HYPERGRADIENTS]);
    });
    std::fill(out, out + scopes * columns, 0.0);
    *all_usable = true;
    for (int64_t j = 0; j < chunks.size; j++) {  // in this order, whichever thread computed them
        for (int q = 0; q < columns; q++)
            out[all.xs[chunks[j].tensor].scope * columns + q] += h[j * HYPERGRADIENTS + q];
        *all_usable = *all_usable && usable[j];
    }
}

// Moves weights, slots and the last update by one step, if *usable.
void advance(const StepPointers *steps, int64_t count, int threads, const bool *usable) {
    if (!*usable) return;
    const ChunkedTensors all(steps, count);
    const Array<Chunk> &chunks = all.chunks;
    share_out(chunks.size, threads, [&](int64_t j) {
        const Tensor &x = all.xs[chunks[j].tensor];
        const double lr = x.now[0], keep = 1 - lr * weight_decay_of(x);
        const auto loop = !x.applied           ? move_chunk<false, false>
                          : Steps::settles(x) ? move_chunk<true, true>
                                              : move_chunk<true, false>;
        loop(x, Steps(x), keep, lr, chunks[j].begin, chunks[j].end);
    });
    for (int64_t j = 0; j < count; j++) {  // after all chunks have read them
        const Tensor &x = all.xs[j];
        Steps steps(x);
        if (!x.applied) steps.between.move(steps.now);
        for (int k = 0; k < SCALARS; k++) *x.scalars[k] = steps.between.w[k];
        if (x.applied) std::copy(x.now, x.now + 1 + COEFFICIENTS, x.applied);
        *x.t += 1;
    }
}
}
