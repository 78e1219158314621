/* What passes say of a row, in one reading: for a row of few numbers NumPy takes longer to be called some thirty times than
   all of it takes to compute.

   Outputs are float32, [rows, passes, values]; sums are float64. Each row is found by itself and pass after pass, so that
   nothing depends on the rows beside it. What makes a row unusable is found on the way: `wrong`, [rows], is not 0 then, and
   what else is written of such a row is void. */

#include <math.h>

#include "powers.h"

#define AT_ONCE 1024 /* numbers whose powers are found at once; the values of a pass are at most as many */

#define MOST_COMBINATIONS 1024

/* Mean and sum of squared deviations, with one number more (Welford 1962); `share` is 1 / passes. */
INLINE void take_in(double value, double share, double *mean, double *squares) {
    double before = value - *mean;
    *mean += before * share;
    *squares += before * (value - *mean);
}

INLINE int lies_outside(double value, double low, double high) { return !(value >= low && value <= high); }

#define ROUNDING 0.02 /* of probabilities in half precision, and of sums of many */

/* What outputs of classes or labels are. */
enum form { LOGITS, PROBABILITIES, LOG_PROBABILITIES };

/* Scores of one pass, at most 0: the logarithms of its probabilities, but for what makes them sum to 1. Returns whether
   the pass is usable. */
INLINE int read_pass(const float *given, int64_t classes, enum form form, double temperature, double *scores) {
    double most = -INFINITY, total = 0.0;
    int usable = 1;
    for (int64_t i = 0; i < classes; i++) {
        double value = given[i];
        usable &= value < INFINITY; /* nor is NaN */
        if (form == PROBABILITIES) {
            usable &= !lies_outside(value, -ROUNDING, 1.0 + ROUNDING);
            total += value;
            value = log(value > 0.0 ? value : 0.0);
        }
        scores[i] = value;
        most = value > most ? value : most;
    }
    if (form == PROBABILITIES) usable &= !lies_outside(total, 1.0 - ROUNDING, 1.0 + ROUNDING);
    if (form == LOG_PROBABILITIES) usable &= most <= ROUNDING;
    if (!(most > -INFINITY)) return 0; /* impossible for every class */
    for (int64_t i = 0; i < classes; i++) scores[i] = (scores[i] - most) / temperature;
    return usable;
}

/* Classes: `mean` and `squares`, [rows, classes], of their probabilities; `entropy`, [rows], the sum over passes; `votes`,
   [rows, classes], how many passes found each the most probable, the first of several. */
FOR_EACH_PROCESSOR("avx2")
void class_sums(const float *outputs, int64_t rows, int64_t passes, int64_t classes, int64_t form, double temperature,
                double *mean, double *squares, double *entropy, int64_t *votes, int64_t *wrong) {
    double scores[AT_ONCE], p[AT_ONCE];
    int64_t at_once = AT_ONCE / classes;
    for (int64_t row = 0; row < rows; row++, mean += classes, squares += classes, votes += classes) {
        const float *given = outputs + row * passes * classes;
        memset(mean, 0, (size_t)classes * sizeof *mean);
        memset(squares, 0, (size_t)classes * sizeof *squares);
        memset(votes, 0, (size_t)classes * sizeof *votes);
        entropy[row] = 0.0;
        wrong[row] = 0;
        for (int64_t begin = 0; begin < passes; begin += at_once) {
            int64_t some = lesser(at_once, passes - begin);
            for (int64_t pass = 0; pass < some; pass++)
                wrong[row] |= !read_pass(given + (begin + pass) * classes, classes, (enum form)form, temperature,
                                         scores + pass * classes);
            if (wrong[row]) break;
            for (int64_t i = 0; i < some * classes; i++) p[i] = power(scores[i]);
            for (int64_t pass = 0; pass < some; pass++) {
                double *of = p + pass * classes, total = 0.0, weighted = 0.0, share = 1.0 / (double)(begin + pass + 1);
                const double *score = scores + pass * classes;
                int64_t best = -1;
                for (int64_t i = 0; i < classes; i++) total += of[i];
                for (int64_t i = 0; i < classes; i++) {
                    of[i] /= total;
                    weighted += of[i] > 0.0 ? of[i] * score[i] : 0.0;
                    take_in(of[i], share, mean + i, squares + i);
                    if (best < 0 && score[i] == 0.0) best = i;
                }
                entropy[row] += log(total) - weighted;
                votes[best]++;
            }
        }
    }
}

/* The logit of a label. */
INLINE double logit_of(double value, enum form form) {
    if (form == LOGITS) return value;
    if (form == PROBABILITIES) {
        double p = value < 0.0 ? 0.0 : value > 1.0 ? 1.0 : value;
        return log(p) - log1p(-p);
    }
    double log_p = value < 0.0 ? value : 0.0;
    return log_p - log(-expm1(log_p));
}

INLINE int is_usable_label(double value, enum form form) {
    if (form == PROBABILITIES) return !lies_outside(value, -ROUNDING, 1.0 + ROUNDING);
    return form == LOGITS ? value < INFINITY : value <= ROUNDING;
}

INLINE double times_log(double p) { return p > 0.0 ? p * log(p) : 0.0; }

/* Labels, each for itself: `samples`, [rows, passes, labels], their probabilities; `mean` and `squares`, [rows, labels], of their probabilities; `entropy`, [rows, labels], the sum
   over passes; `votes`, [rows, labels], in how many of them each is at or above the threshold. */
FOR_EACH_PROCESSOR("avx2")
void label_sums(const float *outputs, int64_t rows, int64_t passes, int64_t labels, int64_t form, double temperature,
                double threshold, double *samples, double *mean, double *squares, double *entropy, int64_t *votes,
                int64_t *wrong) {
    for (int64_t row = 0; row < rows; row++, mean += labels, squares += labels, entropy += labels, votes += labels) {
        memset(mean, 0, (size_t)labels * sizeof *mean);
        memset(squares, 0, (size_t)labels * sizeof *squares);
        memset(entropy, 0, (size_t)labels * sizeof *entropy);
        memset(votes, 0, (size_t)labels * sizeof *votes);
        wrong[row] = 0;
        for (int64_t pass = 0; pass < passes; pass++, outputs += labels) {
            double share = 1.0 / (double)(pass + 1);
            for (int64_t i = 0; i < labels; i++) {
                double value = outputs[i], p, own;
                wrong[row] |= !is_usable_label(value, (enum form)form);
                if (form == PROBABILITIES && temperature == 1.0) { /* as it is, without the rounding of a logit */
                    p = value < 0.0 ? 0.0 : value > 1.0 ? 1.0 : value;
                    own = -times_log(p) - times_log(1.0 - p);
                    own = own > 0.0 ? own : 0.0;
                } else {
                    double logit = logit_of(value, (enum form)form) / temperature, size = fabs(logit);
                    double odds = exp(-size);
                    p = (logit >= 0.0 ? 1.0 : odds) / (1.0 + odds);
                    own = odds > 0.0 ? log1p(odds) + size * odds / (1.0 + odds) : 0.0;
                }
                *samples++ = p;
                take_in(p, share, mean + i, squares + i);
                entropy[i] += own;
                votes[i] += p >= threshold;
            }
        }
    }
}

/* What passes say of labels together: `total`, [rows, 2 ** labels], is the sum over passes of the probability of each
   combination, of labels that are independent in a pass; in combination c, label i is there if bit i of c is set. */
FOR_EACH_PROCESSOR("avx2")
void combination_sums(const double *samples, int64_t rows, int64_t passes, int64_t labels, double *total) {
    double of_pass[MOST_COMBINATIONS];
    for (int64_t row = 0; row < rows; row++, total += (int64_t)1 << labels) {
        memset(total, 0, ((size_t)1 << labels) * sizeof *total);
        for (int64_t pass = 0; pass < passes; pass++, samples += labels) {
            of_pass[0] = 1.0;
            for (int64_t label = 0; label < labels; label++) {
                int64_t before = (int64_t)1 << label;
                for (int64_t i = 0; i < before; i++) {
                    of_pass[before + i] = of_pass[i] * samples[label];
                    of_pass[i] *= 1.0 - samples[label];
                }
            }
            for (int64_t i = 0; i < (int64_t)1 << labels; i++) total[i] += of_pass[i];
        }
    }
}

/* Values as they are: `mean` and `squares`, [rows, values]. */
FOR_EACH_PROCESSOR("avx2")
void value_sums(const double *samples, int64_t rows, int64_t passes, int64_t values, double *mean, double *squares) {
    for (int64_t row = 0; row < rows; row++, mean += values, squares += values) {
        memset(mean, 0, (size_t)values * sizeof *mean);
        memset(squares, 0, (size_t)values * sizeof *squares);
        for (int64_t pass = 0; pass < passes; pass++, samples += values) {
            double share = 1.0 / (double)(pass + 1);
            for (int64_t i = 0; i < values; i++) take_in(samples[i], share, mean + i, squares + i);
        }
    }
}
