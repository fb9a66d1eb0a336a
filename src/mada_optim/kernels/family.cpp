// The rules adam, avgrad, yogi, adan and mada as one loop per phase, for fp32 tensors on a CPU.
//
// All are corners of the rule in rules/mada.py; its letters are used here, and its docstring has the equations. TERMS,
// given to the compiler, says which terms are there, so that a rule pays for what it uses only. The derivatives are closed forms of that rule;
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

enum Term { MEAN = 1, YOGI = 2, DIFFERENCE = 4, LION = 8 };

enum Coefficient { BETA1, BETA2, BETA3, RHO, C, GAMMA, COEFFICIENTS };
enum Hypergradient { LR = COEFFICIENTS, HYPERGRADIENTS };  // of the coefficients, then of ln lr

// One parameter tensor: what Python fills in, in this order. Unused pointers are null.
struct Tensor {
    int64_t size, scope;                // elements; row of its learned coefficients
    float *p, *g;                       // parameter; gradient of this step
    float *m, *v, *vbar, *n, *g_prev, *l;
    double *t, *w1, *w2, *w3, *wbar2;   // scalars per tensor
    float *gradient;                    // of the last update
    double *applied;                    // its learning rate and coefficients; null where nothing is learned
    const double *now;                  // those of this step
    double weight_decay, eps, lion_beta1, lion_beta2, kappa;
};

struct Rule {
    int64_t coefficients;               // how many of the six the rule has
    double corner[COEFFICIENTS];        // the values of all six at its corner of mada
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
    float c, one_c, gamma, eps;
    float inv_w1, inv_w3, rho_w2, rest_wbar2, inv_t, first;
    float lion_b1, lion_a1, lion_b2, lion_a2, lion_size;
    Step(const Tensor &x, const Scalars &s) {
        b1 = s.q[BETA1], b2 = s.q[BETA2], b3 = s.q[BETA3];
        a1 = 1 - s.q[BETA1], a2 = 1 - s.q[BETA2], a3 = 1 - s.q[BETA3];
        c = s.q[C], one_c = 1 - s.q[C], gamma = s.q[GAMMA], eps = x.eps;
        inv_w1 = 1 / s.w1, inv_w3 = 1 / s.w3, inv_t = 1 / s.t;
        rho_w2 = s.q[RHO] / s.w2, rest_wbar2 = (1 - s.q[RHO]) / s.wbar2;
        first = s.t == 1 ? 0.0f : 1.0f;  // d_1 = 0
        lion_b1 = x.lion_beta1, lion_a1 = 1 - x.lion_beta1;
        lion_b2 = x.lion_beta2, lion_a2 = 1 - x.lion_beta2;
        lion_size = (1 - s.q[GAMMA]) * x.kappa;
    }
};

// Slots of one element, in registers.
struct Element {
    float m, v, vbar, n, l;
};

INLINE float difference(const Step &k, float g, float g_prev) {
    return TERMS & DIFFERENCE ? k.first * (g - g_prev) : 0.0f;
}

INLINE float target_of(const Step &k, float square, float vp) {
    if (!(TERMS & YOGI)) return square;
    return k.c * square + k.one_c * (vp + square * sign_of(square - vp));
}

INLINE void next_slots(const Step &k, float g, float g_prev, Element &e) {
    const float d = difference(k, g, g_prev);
    const float ghat = g + k.b3 * d;
    e.m = k.b1 * e.m + k.a1 * g;
    e.v = k.b2 * e.v + k.a2 * target_of(k, ghat * ghat, e.v);
    if (TERMS & DIFFERENCE) e.n = k.b3 * e.n + k.a3 * d;
    if (TERMS & MEAN) e.vbar = e.vbar + (e.v - e.vbar) * k.inv_t;
    if (TERMS & LION) e.l = k.lion_b2 * e.l + k.lion_a2 * g;
}

// The update from slots after the step (of Lion: before it).
INLINE float update_of(const Step &k, float g, float lp, const Element &e) {
    float numerator = e.m * k.inv_w1;
    if (TERMS & DIFFERENCE) numerator += k.b3 * e.n * k.inv_w3;
    float vhat = k.rho_w2 * e.v;
    if (TERMS & MEAN) vhat += k.rest_wbar2 * e.vbar;
    float u = numerator / (std::sqrt(vhat) + k.eps);
    if (TERMS & LION) u = k.gamma * u + k.lion_size * sign_of(k.lion_b1 * lp + k.lion_a1 * g);
    return u;
}

// What the hypergradients are made of: sums over the elements, with the factors that all elements share left out.
// gd is g_next / D; gv is g_next N / (D^2 root), and 0 where vhat is 0, so that du/dvhat = -gamma/2 gv.
enum Sum { D_DM, D_M, D_DN, D_N, V_DV, V_V, V_VBAR, V_DC, V_D3, D_NUMERATOR, G_LION, G_P, SUMS };

// Adds the sums over one block, made in fp32, to `sums`.
void add_sums(const Tensor &x, const Step k, int64_t begin, int64_t end, double *sums) {
    const float *__restrict g_now = x.g, *__restrict gradient = x.gradient, *__restrict g_prev = x.g_prev;
    const float *__restrict m = x.m, *__restrict v = x.v, *__restrict vbar = x.vbar, *__restrict n = x.n;
    const float *__restrict l = x.l;
    const float b3_w3 = k.b3 * k.inv_w3;
    float d_dm = 0, d_m = 0, d_dn = 0, d_n = 0, v_dv = 0, v_v = 0, v_vbar = 0, v_dc = 0, v_d3 = 0, d_num = 0, g_lion = 0;
#pragma omp simd reduction(+ : d_dm, d_m, d_dn, d_n, v_dv, v_v, v_vbar, v_dc, v_d3, d_num, g_lion)
    for (int64_t i = begin; i < end; i++) {
        const float g = gradient[i], gp = TERMS & DIFFERENCE ? g_prev[i] : 0.0f;
        const float mp = m[i], vp = v[i];
        Element e = {mp, vp, TERMS & MEAN ? vbar[i] : 0.0f, TERMS & DIFFERENCE ? n[i] : 0.0f, 0.0f};
        const float np = e.n, lp = TERMS & LION ? l[i] : 0.0f;
        next_slots(k, g, gp, e);
        const float d = difference(k, g, gp), ghat = g + k.b3 * d, square = ghat * ghat;

        float numerator = e.m * k.inv_w1;
        if (TERMS & DIFFERENCE) numerator += b3_w3 * e.n;
        float vhat = k.rho_w2 * e.v;
        if (TERMS & MEAN) vhat += k.rest_wbar2 * e.vbar;
        // 1 / D and 1 / root by one division, the dearest operation here
        const float root = std::sqrt(vhat), nonzero = vhat == 0 ? 1.0f : root, denominator = root + k.eps;
        const float inv_both = 1 / (denominator * nonzero), inv_d = inv_both * nonzero;
        const float gn = g_now[i], gd = gn * inv_d, gd_num = gd * numerator;
        const float gv = vhat == 0 ? 0.0f : gd_num * inv_both;

        d_dm += gd * (mp - g), d_m += gd * e.m;
        v_dv += gv * (vp - target_of(k, square, vp)), v_v += gv * e.v;
        if (TERMS & MEAN) v_vbar += gv * e.vbar;
        const float side = TERMS & YOGI ? sign_of(square - vp) : 1.0f;
        if (TERMS & YOGI) v_dc += gv * (square - (vp + square * side));
        if (TERMS & DIFFERENCE) {
            d_dn += gd * (np - d), d_n += gd * e.n;
            v_d3 += gv * (ghat * d) * (TERMS & YOGI ? k.c + k.one_c * side : 1.0f);
        }
        d_num += gd_num;
        if (TERMS & LION) g_lion += gn * sign_of(k.lion_b1 * lp + k.lion_a1 * g);
    }
    const float block[G_P] = {d_dm, d_m, d_dn, d_n, v_dv, v_v, v_vbar, v_dc, v_d3, d_num, g_lion};
    for (int j = 0; j < G_P; j++) sums[j] += block[j];
}

float dot(const float *__restrict a, const float *__restrict b, int64_t begin, int64_t end) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++) sum += a[i] * b[i];
    return sum;
}

// < g_next, du/dq > from the sums; w1p ... are the averages of ones before the step.
void combine(const Tensor &x, const Scalars &s, double w1p, double w2p, double w3p, const double *sums, double *h) {
    const double *q = s.q, dw1 = w1p - 1, dw2 = w2p - 1, dw3 = w3p - 1;
    const double along_v = q[RHO] / s.w2 + (1 - q[RHO]) / s.wbar2 / s.t;  // dvhat/dv
    const double by_vhat = -0.5 * q[GAMMA], by_target = by_vhat * along_v * (1 - q[BETA2]);
    h[BETA1] = q[GAMMA] * (sums[D_DM] / s.w1 - sums[D_M] * dw1 / (s.w1 * s.w1));
    h[BETA2] = by_vhat * (along_v * sums[V_DV] - q[RHO] * sums[V_V] * dw2 / (s.w2 * s.w2) -
                          (1 - q[RHO]) * sums[V_VBAR] * dw2 / s.t / (s.wbar2 * s.wbar2));
    h[BETA3] = q[GAMMA] * (sums[D_N] * (1 / s.w3 - q[BETA3] * dw3 / (s.w3 * s.w3)) + sums[D_DN] * q[BETA3] / s.w3) +
               by_target * 2 * sums[V_D3];
    h[RHO] = by_vhat * (sums[V_V] / s.w2 - sums[V_VBAR] / s.wbar2);
    h[C] = by_target * sums[V_DC];
    h[GAMMA] = sums[D_NUMERATOR] - x.kappa * sums[G_LION];
    // The parameter before the last update follows from the one after: hyper/gradient.py has the formula.
    const double along_u = q[GAMMA] * sums[D_NUMERATOR] + (1 - q[GAMMA]) * x.kappa * sums[G_LION];
    h[LR] = (along_u + x.weight_decay * sums[G_P]) / (1 - x.applied[0] * x.weight_decay);
}

// Slots after the last update, then the update of this step: weights, slots and gradient are written once.
template <bool SETTLE>
void learn_chunk(const Tensor &x, const Step then, const Step now, float keep, float lr, int64_t begin, int64_t end) {
    const float *__restrict g_now = x.g;
    float *__restrict p = x.p, *__restrict m = x.m, *__restrict v = x.v, *__restrict vbar = x.vbar;
    float *__restrict n = x.n, *__restrict g_prev = x.g_prev, *__restrict l = x.l, *__restrict gradient = x.gradient;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        Element e = {m[i], v[i], TERMS & MEAN ? vbar[i] : 0.0f, TERMS & DIFFERENCE ? n[i] : 0.0f,
                     TERMS & LION ? l[i] : 0.0f};
        const float old = gradient[i], g = g_now[i];
        float before = TERMS & DIFFERENCE ? g_prev[i] : 0.0f;
        if (SETTLE) {
            next_slots(then, old, before, e);
            before = old;
            m[i] = e.m, v[i] = e.v;
            if (TERMS & MEAN) vbar[i] = e.vbar;
            if (TERMS & DIFFERENCE) n[i] = e.n, g_prev[i] = before;
            if (TERMS & LION) l[i] = e.l;
        }
        const float lp = e.l;
        next_slots(now, g, before, e);
        p[i] = keep * p[i] - lr * update_of(now, g, lp, e);
        gradient[i] = g;
    }
}

void plain_chunk(const Tensor &x, const Step now, float keep, float lr, int64_t begin, int64_t end) {
    const float *__restrict g_now = x.g;
    float *__restrict p = x.p, *__restrict m = x.m, *__restrict v = x.v, *__restrict vbar = x.vbar;
    float *__restrict n = x.n, *__restrict g_prev = x.g_prev, *__restrict l = x.l;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        Element e = {m[i], v[i], TERMS & MEAN ? vbar[i] : 0.0f, TERMS & DIFFERENCE ? n[i] : 0.0f,
                     TERMS & LION ? l[i] : 0.0f};
        const float g = g_now[i], lp = e.l;
        next_slots(now, g, TERMS & DIFFERENCE ? g_prev[i] : 0.0f, e);
        p[i] = keep * p[i] - lr * update_of(now, g, lp, e);
        m[i] = e.m, v[i] = e.v;
        if (TERMS & MEAN) vbar[i] = e.vbar;
        if (TERMS & DIFFERENCE) n[i] = e.n, g_prev[i] = g;
        if (TERMS & LION) l[i] = e.l;
    }
}

// Whether no element is beyond the limit: as integers, the bits of |x| are in the order of |x|, infinity and NaN last.
bool chunk_is_usable(const float *g, float limit, int64_t begin, int64_t end) {
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

void hypergradients(const Tensor *xs, int64_t count, const Rule &rule, int threads, float limit, bool of_lr,
                    int64_t scopes, double *out) {
    const auto chunks = chunks_of(xs, count);
    const int64_t total = chunks.size();
    std::vector<double> h(total * HYPERGRADIENTS, 0.0);
    std::vector<char> usable(total, 1);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t j = 0; j < total; j++) {
        const Chunk &c = chunks[j];
        const Tensor &x = xs[c.tensor];
        usable[j] = chunk_is_usable(x.g, limit, c.begin, c.end);
        if (!x.applied || *x.t < 1) continue;
        const Scalars s = last_update(x, rule);
        const Step step(x, s);
        const bool decays = of_lr && x.weight_decay != 0;
        double sums[SUMS] = {};
        for (int64_t b = c.begin; b < c.end; b += BLOCK) {
            const int64_t end = std::min(b + BLOCK, c.end);
            add_sums(x, step, b, end, sums);
            if (decays) sums[G_P] += dot(x.g, x.p, b, end);
        }
        combine(x, s, at(x.w1), at(x.w2), at(x.w3), sums, &h[j * HYPERGRADIENTS]);
    }
    std::fill(out, out + scopes * HYPERGRADIENTS + 1, 0.0);
    for (int64_t j = 0; j < total; j++) {  // in this order, whoever made them
        const Tensor &x = xs[chunks[j].tensor];
        out[scopes * HYPERGRADIENTS] += !usable[j];
        if (x.applied)
            for (int q = 0; q < HYPERGRADIENTS; q++)
                out[x.scope * HYPERGRADIENTS + q] -= x.applied[0] * h[j * HYPERGRADIENTS + q];
    }
}

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
            const auto loop = settle ? learn_chunk<true> : learn_chunk<false>;
            loop(x, Step(x, last), Step(x, now), keep, lr, chunks[j].begin, chunks[j].end);
        } else {
            const Scalars now = this_update(x, rule, nullptr);
            plain_chunk(x, Step(x, now), keep, lr, chunks[j].begin, chunks[j].end);
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

extern "C" {

// Layout check: a mistake here would write anywhere.
int64_t tensor_bytes() { return sizeof(Tensor); }
int64_t rule_bytes() { return sizeof(Rule); }
int terms() { return TERMS; }

// out, (scopes, 7): hypergradients of all tensors; then how many chunks hold a gradient beyond `limit`, or NaN.
void hypergradients(const Tensor *xs, int64_t count, const Rule *rule, int threads, double limit, int of_lr,
                    int64_t scopes, double *out) {
    hypergradients(xs, count, *rule, threads, float(limit), of_lr, scopes, out);
}

// Weights, slots and memory of the update one step on; nothing at all unless *usable.
void advance(const Tensor *xs, int64_t count, const Rule *rule, int threads, const bool *usable) {
    if (*usable) advance(xs, count, *rule, threads);
}
}
