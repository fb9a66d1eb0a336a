// share_out(total, threads, body): calls body(j) for each j below `total`, in parallel, with OpenMP, with GCC's OpenMP
// runtime that torch has loaded (TORCH_THREADS), or with threads that are started for the call.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#ifdef TORCH_THREADS
extern "C" {
void GOMP_parallel(void (*)(void *), void *, unsigned threads, unsigned flags);
int omp_get_thread_num();
int omp_get_num_threads();
}
#elif !defined(_OPENMP)
#include <pthread.h>
#endif

namespace {

// Zeros for the time of a call, without the library of C++, which a compiler may lack.
template <typename T>
struct Array {
    const int64_t size;
    T *const items;
    explicit Array(int64_t count) : size(count), items((T *)std::calloc(std::max<int64_t>(count, 1), sizeof(T))) {
        if (!items) std::abort();
    }
    Array(const Array &) = delete;
    ~Array() { std::free(items); }
    T &operator[](int64_t i) const { return items[i]; }
};

// body(j) for each j below `total`; each thread gets an equal share of neighbors.
#ifdef _OPENMP
template <typename Body>
void share_out(int64_t total, int threads, const Body &body) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t j = 0; j < total; j++) body(j);
}
#else
template <typename Body>
struct Shared {
    const Body &body;
    const int64_t total;
    void part(int64_t k, int64_t parts) const {
        for (int64_t j = total * k / parts; j < total * (k + 1) / parts; j++) body(j);
    }
};

#ifdef TORCH_THREADS  // libgomp's ABI, in the runtime that torch has loaded
template <typename Body>
void share_out(int64_t total, int threads, const Body &body) {
    Shared<Body> work{body, total};
    const auto run = [](void *of) { ((Shared<Body> *)of)->part(omp_get_thread_num(), omp_get_num_threads()); };
    GOMP_parallel(run, &work, unsigned(threads), 0);
}
#else
template <typename Body>
struct Share {
    const Shared<Body> *work;
    int64_t k, parts;
    pthread_t thread;
    bool started;
    static void *run(void *of) {
        const Share &share = *(const Share *)of;
        share.work->part(share.k, share.parts);
        return nullptr;
    }
};

template <typename Body>
void share_out(int64_t total, int threads, const Body &body) {
    const Shared<Body> work{body, total};
    const Array<Share<Body>> shares(std::max(threads, 1));
    for (int64_t k = 0; k < shares.size; k++) {
        Share<Body> &share = shares[k] = {&work, k, shares.size, {}, false};
        const bool last = k == shares.size - 1;  // this thread's own
        share.started = !last && !pthread_create(&share.thread, nullptr, Share<Body>::run, &share);
        if (!share.started) Share<Body>::run(&share);
    }
    for (int64_t k = 0; k < shares.size; k++)
        if (shares[k].started) pthread_join(shares[k].thread, nullptr);
}
#endif
#endif

}  // namespace
