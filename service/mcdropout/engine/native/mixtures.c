/* Quantiles of mixtures, one after another: for one mixture of fifty components NumPy takes a hundred times as long to be
   called as all of it takes to compute. */

#include <math.h>

#include "powers.h"

#define AT_ONCE 64
#define NEWTON_STEPS 30
#define MOST_STEPS 90 /* the rest are bisections */
#define NEAR 1e-9
#define CLOSE 1e-12

enum likelihood { GAUSSIAN, LAPLACE };

#define SQRT_2 0x1.6a09e667f3bcdp+0
#define SQRT_HALF 0x1.6a09e667f3bcdp-1
#define INVERSE_SQRT_2_PI 0x1.9884533d43651p-2

/* The share of the standard Gaussian above `size`, 0 to 7, where `bell` is exp(-size^2 / 2), to about 1e-14: J. F. Hart et
   al., "Computer approximations" (1968), number 5666. Beyond, less than 1e-12 is left. */
INLINE double above_of(double size, double bell) {
    double upper = 3.52624965998911e-02, lower = 8.83883476483184e-02;
    upper = upper * size + 7.00383064443688e-01;
    upper = upper * size + 6.37396220353165;
    upper = upper * size + 3.3912866078383e01;
    upper = upper * size + 1.12079291497871e02;
    upper = upper * size + 2.21213596169931e02;
    upper = upper * size + 2.20206867912376e02;
    lower = lower * size + 1.75566716318264;
    lower = lower * size + 1.6064177579207e01;
    lower = lower * size + 8.67807322029461e01;
    lower = lower * size + 2.96564248779674e02;
    lower = lower * size + 6.37333633378831e02;
    lower = lower * size + 7.93826512519948e02;
    lower = lower * size + 4.40413735824752e02;
    return upper / lower * bell;
}

struct found {
    double share, density;
};

/* The share of a mixture at or below a value, a step at a point (whose deviation is 0); and the density there, without the
   points'. */
INLINE struct found at(double value, const double *means, const double *deviations, const double *weights, int64_t count,
                       enum likelihood likelihood) {
    double shares[AT_ONCE], densities[AT_ONCE];
    struct found all = {0.0, 0.0};
    for (int64_t begin = 0; begin < count; begin += AT_ONCE) {
        int64_t some = lesser(AT_ONCE, count - begin);
        for (int64_t i = 0; i < some; i++) {
            double distance = value - means[begin + i], deviation = deviations[begin + i], weight = weights[begin + i];
            double scale = deviation == 0.0 ? 1.0 : deviation, z = fabs(distance) / scale, above, density;
            if (likelihood == LAPLACE) {
                double beyond = power(-SQRT_2 * z);
                above = 0.5 * beyond;
                density = SQRT_HALF * beyond;
            } else {
                double bell = power(-0.5 * z * z);
                above = above_of(z < 7.0 ? z : 7.0, bell);
                density = INVERSE_SQRT_2_PI * bell;
            }
            double share = distance < 0.0 ? above : 1.0 - above, step = distance >= 0.0 ? 1.0 : 0.0;
            shares[i] = weight * (deviation == 0.0 ? step : share);
            densities[i] = deviation == 0.0 ? 0.0 : weight * density / scale;
        }
        for (int64_t i = 0; i < some; i++) {
            all.share += shares[i];
            all.density += densities[i];
        }
    }
    return all;
}

/* The value that a share `level` of a mixture does not exceed, to about 1e-9 of the level; `begin` is that of the
   likelihood itself. Newton's method, kept between bounds that bisection narrows. A short step of it shows a near root
   only where the share is right too: in a component that is all but a point, every step is short. */
INLINE double quantile(const double *means, const double *deviations, const double *weights, int64_t count, double level,
                       double begin, enum likelihood likelihood) {
    double centre = 0.0, spread = 0.0;
    for (int64_t i = 0; i < count; i++) centre += weights[i] * means[i];
    for (int64_t i = 0; i < count; i++) {
        double beyond = means[i] - centre;
        spread += weights[i] * (deviations[i] * deviations[i] + beyond * beyond);
    }
    spread = sqrt(spread);
    /* Cantelli's inequality. */
    double low = centre - spread * sqrt((1.0 - level) / level), high = centre + spread * sqrt(level / (1.0 - level));
    double width = high - low, tolerance = CLOSE * (width > fabs(high) ? width : fabs(high));
    low -= tolerance;
    high += tolerance;
    double value = centre + begin * spread;
    value = value < low ? low : value > high ? high : value;
    for (int64_t number = 0; number < MOST_STEPS; number++) {
        struct found here = at(value, means, deviations, weights, count, likelihood);
        double excess = here.share - level, step = value - excess / here.density;
        if (excess >= -CLOSE)
            high = value;
        else
            low = value;
        if (fabs(step - value) <= tolerance && fabs(excess) <= NEAR) return value; /* even where it leaves the bounds */
        value = step > low && step < high && number < NEWTON_STEPS ? step : 0.5 * (low + high);
        if (!(high - low > tolerance)) return value;
    }
    return value;
}

/* Quantiles of mixtures of the same weights, [components], whose sum is 1: `found` is [mixtures, levels], `means` and
   `deviations` are [mixtures, components]; `begins`, [levels], are those of the likelihood itself, of variance 1. */
FOR_EACH_PROCESSOR("avx2")
void mixture_quantiles(const double *means, const double *deviations, const double *weights, int64_t mixtures,
                       int64_t components, const double *levels, const double *begins, int64_t count, int64_t likelihood,
                       double *found) {
    for (int64_t i = 0; i < mixtures; i++, means += components, deviations += components)
        for (int64_t level = 0; level < count; level++)
            *found++ = likelihood == LAPLACE
                           ? quantile(means, deviations, weights, components, levels[level], begins[level], LAPLACE)
                           : quantile(means, deviations, weights, components, levels[level], begins[level], GAUSSIAN);
}
