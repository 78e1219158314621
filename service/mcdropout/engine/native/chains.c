/* Chains of masked linear layers without the multiplications by zero, which NumPy and PyTorch do slower on the CPU; and
   those that draw their masks at once, so that no mask leaves the caches. */

#define _GNU_SOURCE
#include <sched.h>
#include <time.h>

#include "masks.h"

/* The words of pairs begin..end, [pairs, stride]. */
static void draw_words(int64_t stride, const struct passes *of, int64_t begin, int64_t end, uint64_t *out) {
    for (int64_t row = 0; begin < end;) {
        while (of->ends[row] <= begin) row++;
        uint64_t pass = of->firsts[row] + (uint64_t)(begin - (row ? of->ends[row - 1] : 0));
        int64_t passes = lesser(of->ends[row], end) - begin;
        stream(of->seeds[row], of->rows[row], pass * (uint64_t)(stride / BLOCK_WORDS), passes * stride / BLOCK_WORDS, out);
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

/* Wait for other threads that are at their last block. */
void wait_for(const struct progress *progress, int64_t pairs) {
    for (int64_t looked = 0; __atomic_load_n(&progress->done, __ATOMIC_ACQUIRE) < pairs; looked++)
        if (looked < LOOKS)
            sched_yield();
        else
            nanosleep(&(struct timespec){0, NAP}, 0);
}
