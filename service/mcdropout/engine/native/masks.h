/* Random words, and what masks are made of them. */

#ifndef MCDROPOUT_MASKS_H
#define MCDROPOUT_MASKS_H

#include <math.h>

#include "powers.h"

/* Random words: Philox 4x64-10 (Salmon et al. 2011), as NumPy's `Philox` has it. Blocks are independent of one another;
   several are worked on at once, since each waits for its own multiplications most of the time. */

#define BLOCK_WORDS 4
#define ROUNDS 10
#define AT_ONCE 4

INLINE uint64_t high(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }

/* The words of `AT_ONCE` blocks; block b encrypts the counter b + 1. */
INLINE void encrypt(uint64_t key0, uint64_t key1, uint64_t block, uint64_t *out) {
    uint64_t words[BLOCK_WORDS][AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++) {
        words[0][i] = block + i + 1;
        words[1][i] = words[0][i] == 0; /* the counter has 256 bits */
        words[2][i] = words[3][i] = 0;
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++) {
            uint64_t first = words[0][i], third = words[2][i];
            words[0][i] = high(0xCA5A826395121157u, third) ^ words[1][i] ^ key0;
            words[1][i] = 0xCA5A826395121157u * third;
            words[2][i] = high(0xD2E7470EE14C6C93u, first) ^ words[3][i] ^ key1;
            words[3][i] = 0xD2E7470EE14C6C93u * first;
        }
        key0 += 0x9E3779B97F4A7C15u;
        key1 += 0xBB67AE8584CAA73Bu;
    }
    for (int i = 0; i < AT_ONCE; i++)
        for (int word = 0; word < BLOCK_WORDS; word++) out[i * BLOCK_WORDS + word] = words[word][i];
}

/* The words of the blocks `block` .. `block + count` of the stream with this key. */
static void stream(uint64_t key0, uint64_t key1, uint64_t block, int64_t count, uint64_t *out) {
    int64_t done = 0;
    for (; done + AT_ONCE <= count; done += AT_ONCE) encrypt(key0, key1, block + done, out + done * BLOCK_WORDS);
    if (done < count) {
        uint64_t rest[AT_ONCE * BLOCK_WORDS];
        encrypt(key0, key1, block + done, rest);
        memcpy(out + done * BLOCK_WORDS, rest, (size_t)(count - done) * BLOCK_WORDS * sizeof(uint64_t));
    }
}

/* Masks.

   A pass of a row takes `stride` words of its stream; `masks.py` says what each bit of them means. From the words to the
   numbers that multiply, nothing leaves the L1 cache. */

#define WORDS_AT_ONCE 512
#define WORD_BITS 64
#define PLANES 2
#define NUMBERS_AT_ONCE 64

/* What units become: one of two values, or, of 32 bits each, a number between 0 and 1, or a normal one. */
enum drawn { COMPARED, UNIFORM, NORMAL };

/* Where the units of one site lie in the words of a pass: `bits` (1, 8, 16, 32 or 64) each, from word `word` on. Where they
   are compared, a unit whose number is at least `threshold` becomes `kept[0]`, others `dropped[0]`; with two planes,
   behind these come the units again with `kept[1]` and `dropped[1]`. These are bit patterns of floats. */
struct place {
    int64_t word, words, units, planes, bits, drawn;
    uint64_t threshold;
    int32_t kept[PLANES], dropped[PLANES];
};

/* Which passes: row r has the key `seeds[r]`, `rows[r]`; its pairs are its passes from number `firsts[r]` on, and end where
   `ends[r]` says. */
struct passes {
    const uint64_t *seeds, *rows, *firsts;
    const int64_t *ends;
};

typedef uint16_t sixteen_bits __attribute__((may_alias));
typedef uint32_t thirty_two_bits __attribute__((may_alias));
typedef int32_t number __attribute__((may_alias));
typedef int32_t eight __attribute__((vector_size(32), aligned(4), may_alias));

INLINE void choose_by_bits(const uint8_t *bytes, int64_t count, int32_t kept, int32_t dropped, number *out) {
    const eight bit = {1, 2, 4, 8, 16, 32, 64, 128}, none = {0};
    int64_t whole = count / 8;
    for (int64_t i = 0; i < whole; i++) {
        eight one = ((bit & (none + bytes[i])) != none);
        *(eight *)(out + 8 * i) = (one & kept) | (~one & dropped);
    }
    for (int64_t i = 8 * whole; i < count; i++) out[i] = bytes[i / 8] >> (i % 8) & 1 ? kept : dropped;
}

INLINE void draw_uniform(const thirty_two_bits *from, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) out[i] = (float)(from[i] >> 8) * 0x1p-24f;
}

/* Two neighbours make two numbers (Box & Muller 1958). */
INLINE void draw_normal(const thirty_two_bits *from, int64_t count, float *out) {
    float cosines[NUMBERS_AT_ONCE], sines[NUMBERS_AT_ONCE];
    for (int64_t begin = 0; begin < count; begin += 2 * NUMBERS_AT_ONCE) {
        const thirty_two_bits *pair = from + begin;
        int64_t left = count - begin, some = lesser(NUMBERS_AT_ONCE, (left + 1) / 2);
        for (int64_t i = 0; i < some; i++) {
            double cosine, sine, radius = sqrt(-2.0 * logarithm((pair[2 * i] + 1.0) * 0x1p-32));
            turned(pair[2 * i + 1] * 0x1p-30, &cosine, &sine);
            cosines[i] = (float)(radius * cosine);
            sines[i] = (float)(radius * sine);
        }
        for (int64_t i = 0; i < some; i++) {
            out[begin + 2 * i] = cosines[i];
            if (2 * i + 1 < left) out[begin + 2 * i + 1] = sines[i]; /* an odd count leaves one out */
        }
    }
}

/* The units of a place that lie in words `at` .. `at + count` of the pass. */
INLINE void fill(const struct place *place, const uint64_t *words, int64_t at, int64_t count, number *out) {
    int64_t first = at > place->word ? at : place->word, last = lesser(at + count, place->word + place->words);
    if (first >= last) return;
    int64_t a_word = WORD_BITS / place->bits, unit = (first - place->word) * a_word;
    int64_t units = lesser(place->units, (last - place->word) * a_word) - unit;
    const void *from = words + (first - at);
    if (place->drawn == UNIFORM) return draw_uniform(from, units, (float *)out + unit);
    if (place->drawn == NORMAL) return draw_normal(from, units, (float *)out + unit);
    uint64_t threshold = place->threshold;
    int32_t few = (int32_t)threshold; /* of 16 bits or fewer */
    for (int64_t plane = 0; plane < place->planes; plane++) {
        int32_t kept = place->kept[plane], dropped = place->dropped[plane];
        number *to = out + plane * place->units + unit;
        /* Every number is at least 0, and none is 2 ** bits. */
        if (!threshold || (place->bits < WORD_BITS && threshold >> place->bits))
            for (int64_t i = 0; i < units; i++) to[i] = threshold ? dropped : kept;
        else if (place->bits == 1)
            choose_by_bits(from, units, kept, dropped, to);
        else if (place->bits == 8)
            for (int64_t i = 0; i < units; i++) to[i] = ((const uint8_t *)from)[i] >= few ? kept : dropped;
        else if (place->bits == 16)
            for (int64_t i = 0; i < units; i++) to[i] = ((const sixteen_bits *)from)[i] >= few ? kept : dropped;
        else if (place->bits == 32)
            for (int64_t i = 0; i < units; i++)
                to[i] = ((const thirty_two_bits *)from)[i] >= (uint32_t)threshold ? kept : dropped;
        else
            for (int64_t i = 0; i < units; i++) to[i] = ((const uint64_t *)from)[i] >= threshold ? kept : dropped;
    }
}

#endif
