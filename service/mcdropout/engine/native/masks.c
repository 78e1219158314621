/* The drawing of masks, which NumPy and PyTorch do slower. */

#include "masks.h"

/* The same blocks of the streams of `streams` keys, [streams, 2]; out is [streams, count * 4]. */
void philox_words(const uint64_t *keys, int64_t streams, uint64_t block, int64_t count, uint64_t *out) {
    for (int64_t i = 0; i < streams; i++)
        stream(keys[2 * i], keys[2 * i + 1], block, count, out + i * count * BLOCK_WORDS);
}

/* Draw the masks of pairs begin..end: `masks`, one a place, are [pairs, planes, units]. Calls on different pairs may run
   at once. */
FOR_EACH_PROCESSOR("avx2")
void draw_masks(const struct place *places, int64_t count, int64_t stride, const struct passes *of, int64_t begin,
                int64_t end, number *const *masks) {
    uint64_t words[WORDS_AT_ONCE];
    int64_t row = 0;
    while (begin < end) {
        while (of->ends[row] <= begin) row++;
        uint64_t block = (of->firsts[row] + (uint64_t)(begin - (row ? of->ends[row - 1] : 0))) * (uint64_t)(stride / BLOCK_WORDS);
        int64_t passes = lesser(lesser(of->ends[row], end) - begin, stride < WORDS_AT_ONCE ? WORDS_AT_ONCE / stride : 1);
        for (int64_t at = 0; at < stride; at += WORDS_AT_ONCE) {
            int64_t taken = lesser(WORDS_AT_ONCE, stride - at);
            stream(of->seeds[row], of->rows[row], block + (uint64_t)(at / BLOCK_WORDS), passes * taken / BLOCK_WORDS, words);
            for (int64_t i = 0; i < count; i++)
                for (int64_t pass = 0; pass < passes; pass++)
                    fill(places + i, words + pass * taken, at, taken,
                         masks[i] + (begin + pass) * places[i].planes * places[i].units);
        }
        begin += passes;
    }
}

/* Which version of the structures and functions above this is; `library.py` knows the one that it calls. */
int64_t interface_version(void) { return 3; }
