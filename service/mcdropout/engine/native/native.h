/* What all of the library's sources share. Nothing of it is Python's: `library.py` loads it with ctypes, and the modules of
   the same names as the sources check what is handed over. */

#ifndef MCDROPOUT_NATIVE_H
#define MCDROPOUT_NATIVE_H

#include <stdint.h>
#include <string.h>

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

#endif
