#ifndef MCDROPOUT_POWERS_H
#define MCDROPOUT_POWERS_H

#include "native.h"

/* Functions as loops of them are computed several numbers at a time, which loops of calls of the C library are not: no
   branch, no table. They are Taylor's series, to the last digits of a double. */

/* exp, within 1.5 units in the last place; 0 below -708, where only numbers without all their digits are left. Numbers
   are 0 at most. */
INLINE double power(double x) {
    const double shift = 0x1.8p52; /* the integers are what is left when it was added */
    double within = x > -708.0 ? x : -708.0;
    double scaled = within * 0x1.71547652b82fep0 + shift, whole = scaled - shift;
    double r = (within - whole * 0x1.62e42feep-1) - whole * 0x1.a39ef35793c76p-33; /* log 2, its first digits exactly */
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    uint64_t bits, exponent;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&exponent, &scaled, sizeof exponent);
    bits += exponent << 52;
    memcpy(&sum, &bits, sizeof sum);
    return x > -708.0 ? sum : 0.0;
}

/* log of a number above 0 that is no subnormal one, by the series of atanh. */
INLINE double logarithm(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint64_t up = bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu); /* the fraction then begins at sqrt(1/2) */
    uint64_t exponent = (up >> 52) | 0x4330000000000000u, fraction = (up & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu;
    double whole, m;
    memcpy(&whole, &exponent, sizeof whole);
    memcpy(&m, &fraction, sizeof m);
    whole -= 0x1p52 + 1023.0;
    double s = (m - 1.0) / (m + 1.0), z = s * s, sum = 1.0 / 21.0;
    sum = sum * z + 1.0 / 19.0;
    sum = sum * z + 1.0 / 17.0;
    sum = sum * z + 1.0 / 15.0;
    sum = sum * z + 1.0 / 13.0;
    sum = sum * z + 1.0 / 11.0;
    sum = sum * z + 1.0 / 9.0;
    sum = sum * z + 1.0 / 7.0;
    sum = sum * z + 1.0 / 5.0;
    sum = sum * z + 1.0 / 3.0;
    return whole * 0x1.62e42fefa39efp-1 + (2.0 * s + 2.0 * s * z * sum);
}

/* Cosine and sine of `quarters` right angles, 0 to 4. */
INLINE void turned(double quarters, double *cosine, double *sine) {
    const double shift = 0x1.8p52; /* the integers are what is left when it was added */
    double scaled = quarters + shift, r = (quarters - (scaled - shift)) * 0x1.921fb54442d18p+0, z = r * r;
    double s = -1.0 / 1307674368000.0, c = 1.0 / 20922789888000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = s * z * r + r;
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    c = c * z + 1.0;
    uint64_t number;
    memcpy(&number, &scaled, sizeof number);
    double first = number & 1 ? s : c, second = number & 1 ? c : s;
    *cosine = (number + 1) & 2 ? -first : first;
    *sine = number & 2 ? -second : second;
}

#endif
