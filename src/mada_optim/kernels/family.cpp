// The rules adam, avgrad, yogi, adan and mada as one loop per phase, for fp32 tensors on a CPU.
//
// All are corners of the rule in rules/mada.py; its letters are used here, and its docstring has the equations. FLAGS
// say which terms are there, so that a rule pays for its own slots only. The derivatives are closed forms of that rule;
// tests hold parameters, slots and hypergradients equal to the eager engine and to the vector-Jacobian product.
//
// Suffix p: before the step that is differentiated (t - 1). State is laid out as engine/eager.py says.
// Scalars are computed in double; sums are made in a fixed order, whatever the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

// Inlined always: a call, or a struct that is not in registers, would keep a loop from being vectorised.
#define INLINE inline __attribute__((always_inline))

namespace {

enum Flag { MEAN = 1, YOGI = 2, DIFFERENCE = 4, LION = 8 };

enum Coefficient { BETA1, BETA2, BETA3, RHO, C, GAMMA, COEFFICIENTS };

// One parameter tensor: what Python fills in, in this order. Unused pointers are null.
struct Tensor {
    int64_t size;
    float *p, *g;                       // parameter; gradient of this step
    float *m, *v, *vbar, *n, *g_prev, *l;
    double *t, *w1, *w2, *w3, *wbar2;   // scalars per tensor
    float *gradient;                    // of the last update
    double *applied;                    // its learning rate and coefficients; null where nothing is learned
    const double *now;                  // those of this step
    double weight_decay, eps;
};

struct Rule {
    int64_t coefficients;               // how many of the six the rule has
    double corner[COEFFICIENTS];        // the values of all six at its corner of mada
    double lion_beta1, lion_beta2, kappa;
};

constexpr int64_t CHUNK = 16384;  // elements in a thread's piece of work
constexpr int64_t BLOCK = 1024;   // elements summed in fp32 before the sum goes to double

// Coefficients of one step and everything that follows from them and the averages of ones: one set per tensor.
struct Scalars {
    double q[COEFFICIENTS];
    double t, w1, w2, w3, wbar2;
    Scalars(const Rule &rule, const double *values) : t(0), w1(0), w2(0), w3(0), wbar2(0) {
        std::copy(rule.corner, rule.corner + COEFFICIENTS, q);
        std::copy(values + 1, values + 1 + rule.coefficients, q);  // values[0] is the learning rate
    }
    // The averages of ones one step later.
    void advance(double tp, double w1p, double w2p, double w3p, double wbar2p) {
        t = tp + 1;
        w1 = q[BETA1] * w1p + (1 - q[BETA1]);
        w2 = q[BETA2] * w2p + (1 - q[BETA2]);
        w3 = q[BETA3] * w3p + (1 - q[BETA3]);
        wbar2 = wbar2p + (w2 - wbar2p) / t;
    }
};

double at(const double *x) { return x ? *x : 0.0; }

INLINE float sign_of(float x) { return float(x > 0) - float(x < 0); }

// The constants of one step in fp32, as the loops use them.
struct Step {
    float b1, b2, b3, a1, a2, a3;       // a = 1 - b, rounded once from double
    float rho, c, gamma, eps;
    float inv_w1, inv_w3, rho_w2, rest_wbar2, inv_t, first;
    float lion_b1, lion_a1, lion_b2, lion_a2, lion_size;
    Step(const Rule &rule, const Scalars &s, double eps_) {
        b1 = s.q[BETA1], b2 = s.q[BETA2], b3 = s.q[BETA3];
        a1 = 1 - s.q[BETA1], a2 = 1 - s.q[BETA2], a3 = 1 - s.q[BETA3];
        rho = s.q[RHO], c = s.q[C], gamma = s.q[GAMMA], eps = eps_;
        inv_w1 = 1 / s.w1, inv_w3 = 1 / s.w3, inv_t = 1 / s.t;
        rho_w2 = s.q[RHO] / s.w2, rest_wbar2 = (1 - s.q[RHO]) / s.wbar2;
        first = s.t == 1 ? 0.0f : 1.0f;  // d_1 = 0
        lion_b1 = rule.lion_beta1, lion_a1 = 1 - rule.lion_beta1;
        lion_b2 = rule.lion_beta2, lion_a2 = 1 - rule.lion_beta2;
        lion_size = (1 - s.q[GAMMA]) * rule.kappa;
    }
};

// Slots of one element; `step` is the rule of the engine, in the same order of operations.
struct Element {
    float m, v, vbar, n, l;
};

template <int FLAGS>
INLINE float difference(const Step &k, float g, float g_prev) {
    return FLAGS & DIFFERENCE ? k.first * (g - g_prev) : 0.0f;
}

template <int FLAGS>
INLINE float target_of(const Step &k, float square, float vp) {
    if (!(FLAGS & YOGI)) return square;
    return k.c * square + (1 - k.c) * (vp + square * sign_of(square - vp));
}

template <int FLAGS>
INLINE void next_slots(const Step &k, float g, float g_prev, Element &e) {
    const float d = difference<FLAGS>(k, g, g_prev);
    const float ghat = g + k.b3 * d;
    e.m = k.b1 * e.m + k.a1 * g;
    e.v = k.b2 * e.v + k.a2 * target_of<FLAGS>(k, ghat * ghat, e.v);
    if (FLAGS & DIFFERENCE) e.n = k.b3 * e.n + k.a3 * d;
    if (FLAGS & MEAN) e.vbar = e.vbar + (e.v - e.vbar) * k.inv_t;
    if (FLAGS & LION) e.l = k.lion_b2 * e.l + k.lion_a2 * g;
}

// The update from slots after the step (of Lion: before it).
template <int FLAGS>
INLINE float update_of(const Step &k, float g, float lp, const Element &e) {
    float numerator = e.m * k.inv_w1;
    if (FLAGS & DIFFERENCE) numerator += k.b3 * e.n * k.inv_w3;
    float vhat = k.rho_w2 * e.v;
    if (FLAGS & MEAN) vhat += k.rest_wbar2 * e.vbar;
    float u = numerator / (std::sqrt(vhat) + k.eps);
    if (FLAGS & LION) u = k.gamma * u + k.lion_size * sign_of(k.lion_b1 * lp + k.lion_a1 * g);
    return u;
}

// < g_next, du/dq > over one block, added to sums[COEFFICIENTS].
template <int FLAGS>
void derivatives(const Tensor &x, const Rule &rule, const Scalars &s, int64_t begin, int64_t end, double *sums) {
    const Step k(rule, s, x.eps);
    const double dw1 = (at(x.w1) - 1), dw2 = (at(x.w2) - 1), dw3 = (at(x.w3) - 1);
    const float dw1_w1 = dw1 / (s.w1 * s.w1), dw3_w3 = dw3 / (s.w3 * s.w3);
    const float inv_w2 = 1 / s.w2, inv_wbar2 = 1 / s.wbar2;
    const float rho_dw2 = s.q[RHO] * dw2 / (s.w2 * s.w2);
    const float rest_dwbar2 = (1 - s.q[RHO]) * dw2 / s.t / (s.wbar2 * s.wbar2);
    const float along_v = FLAGS & MEAN ? k.rho_w2 + k.rest_wbar2 * k.inv_t : k.rho_w2;  // dvhat/dv
    float h1 = 0, h2 = 0, h3 = 0, hr = 0, hc = 0, hg = 0;
#pragma omp simd reduction(+ : h1, h2, h3, hr, hc, hg)
    for (int64_t i = begin; i < end; i++) {
        const float g = x.gradient[i], gp = FLAGS & DIFFERENCE ? x.g_prev[i] : 0.0f;
        const float mp = x.m[i], vp = x.v[i];
        Element e = {mp, vp, FLAGS & MEAN ? x.vbar[i] : 0.0f, FLAGS & DIFFERENCE ? x.n[i] : 0.0f, 0.0f};
        const float np = e.n, lp = FLAGS & LION ? x.l[i] : 0.0f;
        next_slots<FLAGS>(k, g, gp, e);
        const float d = difference<FLAGS>(k, g, gp), ghat = g + k.b3 * d, square = ghat * ghat;
        const float target = target_of<FLAGS>(k, square, vp);

        float numerator = e.m * k.inv_w1;
        if (FLAGS & DIFFERENCE) numerator += k.b3 * e.n * k.inv_w3;
        float vhat = k.rho_w2 * e.v;
        if (FLAGS & MEAN) vhat += k.rest_wbar2 * e.vbar;
        const float root = std::sqrt(vhat), inv_d = 1 / (root + k.eps), ratio = numerator * inv_d;
        // du/dvhat = -gamma N / D^2 / (2 root), and 0 where vhat is 0
        const float by_vhat = vhat == 0 ? 0.0f : -k.gamma * ratio * inv_d * 0.5f / root;
        const float gn = x.g[i], gd = gn * inv_d * k.gamma, gv = gn * by_vhat;

        h1 += gd * ((mp - g) * k.inv_w1 - e.m * dw1_w1);
        float dvhat2 = along_v * (vp - target) - e.v * rho_dw2;
        if (FLAGS & MEAN) dvhat2 -= e.vbar * rest_dwbar2;
        h2 += gv * dvhat2;
        if (FLAGS & MEAN) hr += gv * (e.v * inv_w2 - e.vbar * inv_wbar2);
        const float side = FLAGS & YOGI ? sign_of(square - vp) : 1.0f;
        if (FLAGS & YOGI) hc += gv * along_v * k.a2 * (square - (vp + square * side));
        if (FLAGS & DIFFERENCE) {
            const float dn = e.n * k.inv_w3 + k.b3 * ((np - d) * k.inv_w3 - e.n * dw3_w3);
            const float dtarget = 2 * ghat * d * (FLAGS & YOGI ? k.c + (1 - k.c) * side : 1.0f);
            h3 += gd * dn + gv * along_v * k.a2 * dtarget;
        }
        if (FLAGS & LION) hg += gn * (ratio - float(rule.kappa) * sign_of(k.lion_b1 * lp + k.lion_a1 * g));
    }
    sums[BETA1] += h1, sums[BETA2] += h2, sums[BETA3] += h3, sums[RHO] += hr, sums[C] += hc, sums[GAMMA] += hg;
}

// Slots after the last update, then the update of this step: weights, slots and gradient are written once.
template <int FLAGS, bool SETTLE>
void learn_chunk(const Tensor &x, const Step &then, const Step &now, float keep, float lr, int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        Element e = {x.m[i], x.v[i], FLAGS & MEAN ? x.vbar[i] : 0.0f, FLAGS & DIFFERENCE ? x.n[i] : 0.0f,
                     FLAGS & LION ? x.l[i] : 0.0f};
        const float old = x.gradient[i], g = x.g[i];
        float before = FLAGS & DIFFERENCE ? x.g_prev[i] : 0.0f;
        if (SETTLE) {
            next_slots<FLAGS>(then, old, before, e);
            before = old;
            x.m[i] = e.m, x.v[i] = e.v;
            if (FLAGS & MEAN) x.vbar[i] = e.vbar;
            if (FLAGS & DIFFERENCE) x.n[i] = e.n, x.g_prev[i] = before;
            if (FLAGS & LION) x.l[i] = e.l;
        }
        const float lp = e.l;
        next_slots<FLAGS>(now, g, before, e);
        x.p[i] = keep * x.p[i] - lr * update_of<FLAGS>(now, g, lp, e);
        x.gradient[i] = g;
    }
}

template <int FLAGS>
void plain_chunk(const Tensor &x, const Step &now, float keep, float lr, int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        Element e = {x.m[i], x.v[i], FLAGS & MEAN ? x.vbar[i] : 0.0f, FLAGS & DIFFERENCE ? x.n[i] : 0.0f,
                     FLAGS & LION ? x.l[i] : 0.0f};
        const float g = x.g[i], lp = e.l;
        next_slots<FLAGS>(now, g, FLAGS & DIFFERENCE ? x.g_prev[i] : 0.0f, e);
        x.p[i] = keep * x.p[i] - lr * update_of<FLAGS>(now, g, lp, e);
        x.m[i] = e.m, x.v[i] = e.v;
        if (FLAGS & MEAN) x.vbar[i] = e.vbar;
        if (FLAGS & DIFFERENCE) x.n[i] = e.n, x.g_prev[i] = g;
        if (FLAGS & LION) x.l[i] = e.l;
    }
}

// Exponent bits all set: infinity or NaN.
bool chunk_is_finite(const float *g, int64_t begin, int64_t end) {
    int32_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = begin; i < end; i++) {
        int32_t bits;
        std::memcpy(&bits, g + i, 4);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

// All tensors cut into chunks, so that many small ones and few large ones are shared out alike.
struct Chunk {
    int64_t tensor, begin, end;
};

std::vector<Chunk> chunks_of(const Tensor *xs, int64_t count) {
    std::vector<Chunk> chunks;
    for (int64_t j = 0; j < count; j++)
        for (int64_t begin = 0; begin < xs[j].size; begin += CHUNK)
            chunks.push_back({j, begin, std::min(begin + CHUNK, xs[j].size)});
    return chunks;
}

Scalars last_update(const Tensor &x, const Rule &rule) {
    Scalars s(rule, x.applied);
    s.advance(std::max(*x.t, 1.0) - 1, at(x.w1), at(x.w2), at(x.w3), at(x.wbar2));
    return s;
}

// The averages of ones as stored here; learning, they are those before the last update.
Scalars this_update(const Tensor &x, const Rule &rule, const Scalars *last) {
    Scalars s(rule, x.now);
    if (last)
        s.advance(*x.t, last->w1, last->w2, last->w3, last->wbar2);
    else
        s.advance(*x.t, at(x.w1), at(x.w2), at(x.w3), at(x.wbar2));
    return s;
}

void store(double *target, double value) {
    if (target) *target = value;
}

void store_scalars(const Tensor &x, const Scalars &s) {
    store(x.w1, s.w1), store(x.w2, s.w2), store(x.w3, s.w3), store(x.wbar2, s.wbar2);
}

template <int FLAGS>
void hypergradients(const Tensor *xs, int64_t count, const Rule &rule, int threads, double *out) {
    const auto chunks = chunks_of(xs, count);
    const int64_t total = chunks.size();
    std::vector<double> sums(total * COEFFICIENTS, 0.0);
    std::vector<char> finite(total, 1);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t j = 0; j < total; j++) {
        const Tensor &x = xs[chunks[j].tensor];
        finite[j] = chunk_is_finite(x.g, chunks[j].begin, chunks[j].end);
        if (!x.applied || *x.t < 1) continue;
        const Scalars s = last_update(x, rule);
        for (int64_t b = chunks[j].begin; b < chunks[j].end; b += BLOCK)
            derivatives<FLAGS>(x, rule, s, b, std::min(b + BLOCK, chunks[j].end), &sums[j * COEFFICIENTS]);
    }
    std::fill(out, out + COEFFICIENTS + 1, 0.0);
    for (int64_t j = 0; j < total; j++) {
        const Tensor &x = xs[chunks[j].tensor];
        out[COEFFICIENTS] += !finite[j];
        if (x.applied)
            for (int q = 0; q < COEFFICIENTS; q++) out[q] -= x.applied[0] * sums[j * COEFFICIENTS + q];
    }
}

template <int FLAGS>
void advance(const Tensor *xs, int64_t count, const Rule &rule, int threads) {
    const auto chunks = chunks_of(xs, count);
    const int64_t total = chunks.size();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t j = 0; j < total; j++) {
        const Tensor &x = xs[chunks[j].tensor];
        const double lr = x.now[0], keep = 1 - lr * x.weight_decay;
        if (x.applied) {
            const bool settle = *x.t >= 1;
            const Scalars last = last_update(x, rule), now = this_update(x, rule, settle ? &last : nullptr);
            const auto loop = settle ? learn_chunk<FLAGS, true> : learn_chunk<FLAGS, false>;
            loop(x, Step(rule, last, x.eps), Step(rule, now, x.eps), keep, lr, chunks[j].begin, chunks[j].end);
        } else {
            const Scalars now = this_update(x, rule, nullptr);
            plain_chunk<FLAGS>(x, Step(rule, now, x.eps), keep, lr, chunks[j].begin, chunks[j].end);
        }
    }
    for (int64_t j = 0; j < count; j++) {  // after all chunks have read them
        const Tensor &x = xs[j];
        if (x.applied && *x.t >= 1) store_scalars(x, last_update(x, rule));
        if (!x.applied) store_scalars(x, this_update(x, rule, nullptr));
        if (x.applied) std::copy(x.now, x.now + 1 + rule.coefficients, x.applied);
        *x.t += 1;
    }
}

}  // namespace

// With `flags` as a number, every combination of terms that a rule has.
#define FOR_EACH_RULE(DO)               \
    DO(0)                               \
    DO(MEAN)                            \
    DO(YOGI)                            \
    DO(DIFFERENCE)                      \
    DO(MEAN | YOGI | DIFFERENCE | LION)

extern "C" {

// Layout check: a mistake here would write anywhere.
int64_t tensor_bytes() { return sizeof(Tensor); }
int64_t rule_bytes() { return sizeof(Rule); }

// out[0..5]: -lr < g, du/dq > over all tensors; out[6]: how many chunks of the gradients are not finite.
int hypergradients(int flags, const Tensor *xs, int64_t count, const Rule *rule, int threads, double *out) {
#define CASE(F) \
    if (flags == (F)) return hypergradients<(F)>(xs, count, *rule, threads, out), 0;
    FOR_EACH_RULE(CASE)
#undef CASE
    return 1;
}

// Weights, slots and memory of the update one step on; nothing at all unless *finite.
int advance(int flags, const Tensor *xs, int64_t count, const Rule *rule, int threads, const bool *finite) {
    if (!*finite) return 0;
#define CASE(F) \
    if (flags == (F)) return advance<(F)>(xs, count, *rule, threads), 0;
    FOR_EACH_RULE(CASE)
#undef CASE
    return 1;
}
}
