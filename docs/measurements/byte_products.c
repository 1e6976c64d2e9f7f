/* How many products of bytes, and of floats, two threads of AVX2 can add up in a second.
 *
 *   gcc -O2 -mavx2 -mfma -pthread docs/measurements/byte_products.c -o /tmp/byte_products && /tmp/byte_products
 *
 * Registers only: no product of matrices can be faster, for that has to load its operands too.
 */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

enum { SUMS = 12, RUNS = 5 };
static const long STEPS = 16000000;
static volatile int sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Unsigned by signed bytes, summed in 32 bits: what AVX2 has in place of VNNI's one instruction. */
static void *bytes(void *unused) {
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(2), one = _mm256_set1_epi16(1), sum[SUMS];
    for (int i = 0; i < SUMS; i++) sum[i] = _mm256_set1_epi32(i);
    for (long n = 0; n < STEPS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            __m256i pairs = _mm256_maddubs_epi16(a, b);
            __asm__ volatile("" : "+x"(pairs)); /* else it is taken out of the loop */
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, one));
        }
    }
    int all = 0;
    for (int i = 0; i < SUMS; i++) all += _mm256_extract_epi32(sum[i], 0);
    sink = all;
    return unused;
}

static void *floats(void *unused) {
    __m256 a = _mm256_set1_ps(1.0001f), b = _mm256_set1_ps(0.5f), sum[SUMS];
    for (int i = 0; i < SUMS; i++) sum[i] = _mm256_set1_ps(i);
    for (long n = 0; n < STEPS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
        __asm__ volatile("" : "+x"(a));
    }
    float all = 0;
    for (int i = 0; i < SUMS; i++) all += sum[i][0];
    sink = (int)all;
    return unused;
}

static void measure(const char *name, void *(*work)(void *), double products) {
    for (int threads = 1; threads <= 2; threads++) {
        double least = 1e9;
        for (int run = 0; run < RUNS; run++) {
            pthread_t each[2];
            double begin = now();
            for (int i = 0; i < threads; i++) pthread_create(&each[i], NULL, work, NULL);
            for (int i = 0; i < threads; i++) pthread_join(each[i], NULL);
            if (now() - begin < least) least = now() - begin;
        }
        printf("%s, %d threads: %.1f G products/s\n", name, threads,
               threads * products * SUMS * STEPS / least * 1e-9);
    }
}

int main(void) {
    measure("bytes", bytes, 32);
    measure("floats", floats, 8);
    return 0;
}
