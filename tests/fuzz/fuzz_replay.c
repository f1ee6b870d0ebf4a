/* fuzz_replay.c: runs every file named on the command line, or stdin (AFL++), through fuzz_target.c. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void one(FILE *f)
{
    static uint8_t buf[1 << 22];

    LLVMFuzzerTestOneInput(buf, fread(buf, 1, sizeof buf, f));
}

int main(int argc, char **argv)
{
    int n = 0;

    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");

        if (!f)
            return 1;
        one(f);
        fclose(f);
        n++;
    }
    if (argc < 2)
        one(stdin);
    printf("%d passed, 0 failed\n", n);
    return 0;
}
