/* Two things that NumPy and PyTorch do slower on the CPU: the drawing of masks, and chains of masked linear layers without
   the multiplications by zero; and both at once, where no mask leaves the caches.

   Nothing here is Python's: `native.py` loads the library with ctypes, and checks what is handed over. */

#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define LINE 64 /* bytes of a cache line */

/* One build serves every x86-64 machine: it holds some functions twice, and the loader takes the one for the processor at
   hand. "fma" is a feature, which AMD's processors have too; "arch=haswell" would stand for that one model of Intel's.
   The loader's part (ifunc) is glibc's. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR(feature) __attribute__((target_clones(feature, "default")))
#else
#define FOR_EACH_PROCESSOR(feature)
#endif
/* What is not inlined would not be compiled for the processor at hand. */
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }
INLINE int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

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

/* The same blocks of the streams of `streams` keys, [streams, 2]; out is [streams, count * 4]. */
void philox_words(const uint64_t *keys, int64_t streams, uint64_t block, int64_t count, uint64_t *out) {
    for (int64_t i = 0; i < streams; i++)
        stream(keys[2 * i], keys[2 * i + 1], block, count, out + i * count * BLOCK_WORDS);
}

/* Masks.

   A pass of a row takes `stride` words of its stream; `masks.py` says what each bit of them means. From the words to the
   numbers that multiply, nothing leaves the L1 cache. */

#define WORDS_AT_ONCE 512
#define WORD_BITS 64
#define PLANES 2

/* Where the units of one site lie in the words of a pass: `bits` (1, 8, 16, 32 or 64) each, from word `word` on. A unit whose
   number is at least `threshold` becomes `kept[0]`, others `dropped[0]`; with two planes, behind these come the units
   again with `kept[1]` and `dropped[1]`. The numbers are bit patterns of floats. */
struct place {
    int64_t word, words, units, planes, bits;
    uint64_t threshold;
    int32_t kept[PLANES], dropped[PLANES];
};

/* Which passes: row r has the key `keys[2r]`, `keys[2r + 1]`; its pairs are its passes from number `firsts[r]` on, and end
   where `ends[r]` says. */
struct passes {
    const uint64_t *keys, *firsts;
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

/* The units of a place that lie in words `at` .. `at + count` of the pass. */
INLINE void fill(const struct place *place, const uint64_t *words, int64_t at, int64_t count, number *out) {
    int64_t first = at > place->word ? at : place->word, last = lesser(at + count, place->word + place->words);
    if (first >= last) return;
    int64_t a_word = WORD_BITS / place->bits, unit = (first - place->word) * a_word;
    int64_t units = lesser(place->units, (last - place->word) * a_word) - unit;
    const void *from = words + (first - at);
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

/* Draw the masks of pairs begin..end: `masks`, one a place, are [pairs, planes, units]. Calls on different pairs may run
   at once. */
FOR_EACH_PROCESSOR("avx2")
void draw_masks(const struct place *places, int64_t count, int64_t stride, const struct passes *of, int64_t begin,
                int64_t end, number *const *masks) {
    uint64_t words[WORDS_AT_ONCE];
    int64_t row = 0;
    while (begin < end) {
        while (of->ends[row] <= begin) row++;
        const uint64_t *key = of->keys + 2 * row;
        uint64_t block = (of->firsts[row] + (uint64_t)(begin - (row ? of->ends[row - 1] : 0))) * (uint64_t)(stride / BLOCK_WORDS);
        int64_t passes = lesser(lesser(of->ends[row], end) - begin, stride < WORDS_AT_ONCE ? WORDS_AT_ONCE / stride : 1);
        for (int64_t at = 0; at < stride; at += WORDS_AT_ONCE) {
            int64_t taken = lesser(WORDS_AT_ONCE, stride - at);
            stream(key[0], key[1], block + (uint64_t)(at / BLOCK_WORDS), passes * taken / BLOCK_WORDS, words);
            for (int64_t i = 0; i < count; i++)
                for (int64_t pass = 0; pass < passes; pass++)
                    fill(places + i, words + pass * taken, at, taken,
                         masks[i] + (begin + pass) * places[i].planes * places[i].units);
        }
        begin += passes;
    }
}

/* The words of pairs begin..end, [pairs, stride]. */
static void draw_words(int64_t stride, const struct passes *of, int64_t begin, int64_t end, uint64_t *out) {
    for (int64_t row = 0; begin < end;) {
        while (of->ends[row] <= begin) row++;
        const uint64_t *key = of->keys + 2 * row;
        uint64_t pass = of->firsts[row] + (uint64_t)(begin - (row ? of->ends[row - 1] : 0));
        int64_t passes = lesser(of->ends[row], end) - begin;
        stream(key[0], key[1], pass * (uint64_t)(stride / BLOCK_WORDS), passes * stride / BLOCK_WORDS, out);
        out += passes * stride;
        begin += passes;
    }
}

/* The mask of a place, from the words of a pass. */
FOR_EACH_PROCESSOR("avx2")
static void expand(const struct place *place, const uint64_t *words, number *out) {
    fill(place, words + place->word, place->word, place->words, out);
}

/* Masked linear layers.

   After a ReLU and a dropout mask most inputs of a layer are zero. A dense product multiplies by them all the same; here
   the others are first collected, and only their weights are read. Three things make that faster than a dense product
   long before almost everything is zero:

   - Weights and activations lie in panels, `[panels, inputs, 64]` and `[panels, pairs, 64]`: 64 neighbouring outputs
     together, summed in registers (8 of AVX2) while one pair's inputs pass by. A pitch of 4 KB, at which the lines of
     a row-major matrix push each other out of the caches, does not occur.
   - Inputs are taken in chunks of 128, whose 128 x 64 weights (32 KB) stay in the L1 cache for all pairs of a block.
   - The weights of the next chunk are prefetched meanwhile: a sparse order is none that the processor foresees. */

#define PANEL 64
#define CHUNK 128
#define FLOATS_A_LINE 16
#define LOOKS 32
#define NAP 20000 /* nanoseconds */
#define MOST_LINES_AHEAD 8 /* more prefetches at once than these find no free buffer, and stall */

typedef float vector __attribute__((vector_size(32), aligned(4), may_alias));
#define VECTORS (PANEL / 8)

/* `bias` is [panels, 64] and `weights` [panels, inputs, 64], padded with zeros. */
struct layer {
    int64_t inputs, outputs, relu;
    const float *bias, *weights;
};

struct entry {
    float value;
    int32_t weights; /* where the weights of this input begin in a panel */
};

/* What a block of pairs needs; `values` [panels, block, 64] hold a layer's inputs, then its outputs. The entries of chunk c
   begin at `entries[c * CHUNK * block]`, those of one pair after those of another; pair p's end at `ends[c * block + p]`.
   `words` [block, stride] are what masks are drawn from, and `mask` is one of them. */
struct scratch {
    float *values;
    struct entry *entries;
    int32_t *ends;
    uint64_t *words;
    float *mask;
    int64_t bytes;
};

/* Where masks come from: `given`, one a layer, are [pairs, inputs], or null where there is none. Where `given` is null
   they are drawn: layer i's is that of `places[sites[i]]`, or there is none where that is negative. */
struct masks {
    const float *const *given;
    const int64_t *sites;
    const struct place *places;
    int64_t stride;
    const struct passes *passes;
};

/* Collect the inputs, 64 at most, whose product with the mask is not zero. NaN is not zero, nor is NaN or infinity
   times a mask's zero: they end in the output, as they would in a dense product. */
INLINE int32_t collect(const float *z, const float *mask, int64_t count, int relu, int32_t weights, struct entry *to) {
    float values[PANEL];
    for (int64_t i = 0; i < count; i++) {
        float value = relu && z[i] < 0 ? 0 : z[i]; /* keeps NaN, as fmaxf would not */
        values[i] = mask ? value * mask[i] : value;
    }
    int32_t found = 0;
    for (int64_t i = 0; i < count; i++) { /* no branch: which inputs are zero cannot be predicted */
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        to[found] = (struct entry){values[i], weights + (int32_t)i * PANEL};
        found += bits << 1 != 0; /* 0 and -0 are zero */
    }
    return found;
}

/* Collect the inputs of `count` pairs. The first layer reads row `rows[p]` of `x`, `[rows, inputs]`. Their masks are `mask`,
   `[count, inputs]`, or those of `place`, or there are none. */
INLINE void collect_all(const struct layer *layer, const float *x, const int64_t *rows, const float *mask,
                        const struct place *place, int64_t stride, int64_t count, int64_t block, struct scratch s) {
    int64_t inputs = layer->inputs;
    for (int64_t p = 0; p < count; p++) {
        if (place) expand(place, s.words + p * stride, (number *)s.mask);
        const float *own = place ? s.mask : mask ? mask + p * inputs : 0;
        for (int64_t chunk = 0; chunk < parts(inputs, CHUNK); chunk++) {
            struct entry *entries = s.entries + chunk * CHUNK * block;
            int32_t *end = s.ends + chunk * block + p, found = p ? end[-1] : 0;
            for (int64_t at = chunk * CHUNK; at < lesser(inputs, (chunk + 1) * CHUNK); at += PANEL) {
                const float *z = x ? x + rows[p] * inputs + at : s.values + (at / PANEL * block + p) * PANEL;
                int64_t units = lesser(PANEL, inputs - at);
                found += collect(z, own ? own + at : 0, units, layer->relu != 0, (int32_t)at * PANEL, entries + found);
            }
            *end = found;
        }
    }
}

/* to[:64] = start[:64] + the sum of value * weights[:64] over the entries. */
INLINE void add(const float *start, const float *weights, const struct entry *from, const struct entry *end, float *to) {
    vector sums[VECTORS];
    for (int i = 0; i < VECTORS; i++) sums[i] = ((const vector *)start)[i];
    for (; from < end; from++) {
        const vector *of = (const vector *)(weights + from->weights);
        for (int i = 0; i < VECTORS; i++) sums[i] += from->value * of[i];
    }
    for (int i = 0; i < VECTORS; i++) ((vector *)to)[i] = sums[i];
}

/* The outputs of `count` pairs, from what was collected of their inputs. */
INLINE void multiply(const struct layer *layer, int64_t count, int64_t block, struct scratch s) {
    int64_t inputs = layer->inputs, panels = parts(layer->outputs, PANEL);
    const float *last = layer->weights + panels * inputs * PANEL;
    int64_t ahead = lesser(MOST_LINES_AHEAD, parts(CHUNK * PANEL / FLOATS_A_LINE, count));
    for (int64_t panel = 0; panel < panels; panel++) {
        const float *weights = layer->weights + panel * inputs * PANEL;
        for (int64_t chunk = 0; chunk < parts(inputs, CHUNK); chunk++) {
            const struct entry *entries = s.entries + chunk * CHUNK * block;
            const int32_t *ends = s.ends + chunk * block;
            const float *next = weights + lesser(inputs, (chunk + 1) * CHUNK) * PANEL;
            for (int64_t p = 0; p < count; p++) {
                for (int64_t line = 0; line < ahead && next < last; line++, next += FLOATS_A_LINE)
                    __builtin_prefetch(next, 0, 2);
                float *sums = s.values + (panel * block + p) * PANEL;
                const float *start = chunk ? sums : layer->bias + panel * PANEL;
                add(start, weights, entries + (p ? ends[p - 1] : 0), entries + ends[p], sums);
            }
        }
    }
}

/* What a block takes of the memory from `address` on. */
static struct scratch divide(const struct layer *layers, int64_t count, int64_t block, int64_t stride, uintptr_t address) {
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        most = layers[i].inputs > most ? layers[i].inputs : most;
        most = layers[i].outputs > most ? layers[i].outputs : most;
    }
    uintptr_t values = address + -address % LINE;
    uintptr_t mask = values + (uintptr_t)(parts(most, PANEL) * PANEL * block) * sizeof(float);
    uintptr_t words = mask + (uintptr_t)(parts(most, PANEL) * PANEL) * sizeof(float);
    uintptr_t entries = words + (uintptr_t)(stride * block) * sizeof(uint64_t);
    uintptr_t ends = entries + (uintptr_t)(parts(most, CHUNK) * CHUNK * block) * sizeof(struct entry);
    uintptr_t stop = ends + (uintptr_t)(parts(most, CHUNK) * block) * sizeof(int32_t);
    return (struct scratch){(float *)values, (struct entry *)entries, (int32_t *)ends,
                            (uint64_t *)words, (float *)mask, (int64_t)(stop - address)};
}

/* The bytes of scratch memory that chains take for blocks of so many pairs; `stride` is 0 where masks are given. */
int64_t masked_chain_scratch(const struct layer *layers, int64_t count, int64_t block, int64_t stride) {
    return LINE + divide(layers, count, block, stride, 0).bytes;
}

/* What threads that share some pairs have done of them, on cache lines of their own. */
struct progress {
    int64_t taken; /* up to which pair */
    char apart[LINE - sizeof(int64_t)];
    int64_t done; /* how many pairs */
    char rest[LINE - sizeof(int64_t)];
};

INLINE void run_block(const struct layer *layers, int64_t count, const float *x, const int64_t *rows, struct masks masks,
                      int64_t begin, int64_t pairs, int64_t block, struct scratch s, float *out) {
    if (!masks.given) draw_words(masks.stride, masks.passes, begin, begin + pairs, s.words);
    for (int64_t i = 0; i < count; i++) {
        const float *mask = masks.given && masks.given[i] ? masks.given[i] + begin * layers[i].inputs : 0;
        const struct place *place = !masks.given && masks.sites[i] >= 0 ? masks.places + masks.sites[i] : 0;
        collect_all(&layers[i], i ? 0 : x, rows + begin, mask, place, masks.stride, pairs, block, s);
        multiply(&layers[i], pairs, block, s);
    }
    int64_t outputs = layers[count - 1].outputs;
    for (int64_t p = 0; p < pairs; p++)
        for (int64_t at = 0; at < outputs; at += PANEL)
            memcpy(out + (begin + p) * outputs + at, s.values + (at / PANEL * block + p) * PANEL,
                   (size_t)lesser(PANEL, outputs - at) * sizeof(float));
}

/* Blocks that nobody has taken, until there are none. */
INLINE void run(const struct layer *layers, int64_t count, const float *x, const int64_t *rows, struct masks masks,
                int64_t pairs, int64_t block, struct progress *progress, char *scratch, float *out) {
    struct scratch s = divide(layers, count, block, masks.stride, (uintptr_t)scratch);
    int64_t begin;
    while ((begin = __atomic_fetch_add(&progress->taken, block, __ATOMIC_RELAXED)) < pairs) {
        int64_t some = lesser(block, pairs - begin);
        run_block(layers, count, x, rows, masks, begin, some, block, s, out);
        __atomic_fetch_add(&progress->done, some, __ATOMIC_RELEASE);
    }
}

/* For all pairs, `count` layers one after another: out = bias + (relu?(in) * mask) @ weights.

   `x` is [rows, inputs] and `rows` [pairs], the row that each pair takes; `masks`, one a layer, are [pairs, inputs], or
   null where there is none; `out` is [pairs, outputs]. All are row-major. Threads that call it with the same `progress`,
   zeros at first, share the pairs, each with its own `scratch`: a call returns when it finds no more to do, and all is
   done when `wait_for` returns. Results do not depend on `block`, the number of pairs that are taken at a time. */
FOR_EACH_PROCESSOR("fma")
void masked_chain(const struct layer *layers, int64_t count, const float *x, const int64_t *rows,
                  const float *const *masks, int64_t pairs, int64_t block, struct progress *progress, char *scratch,
                  float *out) {
    struct masks given = {masks, 0, 0, 0, 0};
    run(layers, count, x, rows, given, pairs, block, progress, scratch, out);
}

/* The same, with the masks that `draw_masks` draws of `passes`: layer i's is that of `places[sites[i]]`, of one plane;
   there is none where `sites[i]` is negative. */
FOR_EACH_PROCESSOR("fma")
void drawn_chain(const struct layer *layers, int64_t count, const float *x, const int64_t *rows, const int64_t *sites,
                 const struct place *places, int64_t stride, const struct passes *passes, int64_t pairs, int64_t block,
                 struct progress *progress, char *scratch, float *out) {
    struct masks drawn = {0, sites, places, stride, passes};
    run(layers, count, x, rows, drawn, pairs, block, progress, scratch, out);
}

/* Which version of the structures and functions above this is; `library.py` knows the one that it calls. */
int64_t interface_version(void) { return 2; }

/* Wait for other threads that are at their last block. */
void wait_for(const struct progress *progress, int64_t pairs) {
    for (int64_t looked = 0; __atomic_load_n(&progress->done, __ATOMIC_ACQUIRE) < pairs; looked++)
        if (looked < LOOKS)
            sched_yield();
        else
            nanosleep(&(struct timespec){0, NAP}, 0);
}
