// Weights as they are stored: in fp32, or in bf16 or fp16 (WEIGHT_BF16, WEIGHT_FP16), rounded stochastically as
// engines/rounding.py says. loops.cpp includes it inside of its namespace.

#pragma once

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
INLINE float with_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

constexpr uint32_t INFINITE = 0x7f800000, SMALLEST_NORMAL = 0x38800000;  // the bits of infinity and of 2^-14

#if defined(WEIGHT_BF16)
typedef uint16_t Weight;
INLINE float of_weight(Weight x) { return with_bits(uint32_t(x) << 16); }
INLINE Weight rounded(float x, uint32_t random) {
    const uint32_t bits = bits_of(x), size = bits & 0x7fffffff;
    const uint32_t up = size <= 0x7f7f0000 ? random & 0xffff : 0x8000;  // to nearest beyond the largest number
    return Weight((size > INFINITE ? bits | 0x400000 : bits + up) >> 16);
}
#elif defined(WEIGHT_FP16)
typedef uint16_t Weight;
INLINE float of_weight(Weight x) {
    const uint32_t size = x & 0x7fff;
    const float small = float(int32_t(size)) * 0x1p-24f;
    const uint32_t normal = (size + (size < 0x7c00 ? 0x1c000 : 0x38000)) << 13;
    const uint32_t bits = size < 0x400 ? bits_of(small) : normal;
    return with_bits(bits | uint32_t(x & 0x8000) << 16);
}
INLINE Weight rounded(float x, uint32_t random) {
    const uint32_t bits = bits_of(x), size = bits & 0x7fffffff;
    const float gaps = with_bits(size < SMALLEST_NORMAL ? size : 0) * 0x1p24f;  // of 2^-24, between small numbers
    const int32_t below = int32_t(gaps);
    const uint32_t small = uint32_t(below + (float(int32_t(random >> 8)) * 0x1p-24f < gaps - float(below)));
    const uint32_t normal = ((size + (random & 0x1fff)) >> 13) - 0x1c000;
    const uint32_t beyond = size > INFINITE ? 0x7e00 : size < 0x477ff000 ? 0x7bff : 0x7c00;  // to nearest
    const uint32_t y = size < SMALLEST_NORMAL ? small : size <= 0x477fe000 ? normal : beyond;
    return Weight(y | (bits >> 16 & 0x8000));
}
#else
typedef float Weight;
INLINE float of_weight(Weight x) { return x; }
INLINE Weight rounded(float x, uint32_t) { return x; }
#endif
