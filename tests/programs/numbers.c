/* Multiplies and divides by GMP, whose inner functions are hand-written, without call-frame
   information, and use the frame pointer as a number like any other. */
#include <gmp.h>

#include "work.h"

static mpz_t a, b, product, rest;

KEEP void multiplies(void) {
    for (int i = 0; i < 20; i++) mpz_mul(product, a, b);
    __asm__ volatile("");
}

KEEP void divides(void) {
    for (int i = 0; i < 20; i++) mpz_tdiv_r(rest, product, a);
    __asm__ volatile("");
}

int main(void) {
    gmp_randstate_t state;
    gmp_randinit_default(state);
    mpz_inits(a, b, product, rest, NULL);
    mpz_urandomb(a, state, 50000);
    mpz_urandomb(b, state, 40000);
    ready();
    for (;;) {
        multiplies();
        divides();
    }
}
