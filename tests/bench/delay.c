/* Delays fsync and fdatasync by WEIR_SYNC_DELAY_US microseconds, as a memory card would. Virtual disks
 * flush in a tenth of a millisecond and flatter everybody; this serves every broker alike.
 * Build: cc -O2 -shared -fPIC -o delay.so delay.c -ldl     Use: LD_PRELOAD=delay.so WEIR_SYNC_DELAY_US=10000 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_a_flash(void) {
    static long us = -1;
    if (us < 0) {
        const char *set = getenv("WEIR_SYNC_DELAY_US");
        us = set ? atol(set) : 0;
    }
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    while (us > 0 && nanosleep(&left, &left) != 0) {
    }
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_a_flash();
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_a_flash();
    return real(fd);
}
