/* Stand-in for a llama-server of a CUDA build: hands over to server.py beside it, and says for
 * which architectures it was compiled. */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words)
{
    char place[PATH_MAX], script[PATH_MAX + 16];
    ssize_t length = readlink("/proc/self/exe", place, sizeof place - 1);
    if (length < 0)
        return 1;
    place[length] = '\0';
    if (count == 2 && strcmp(words[1], "--architectures") == 0) {
        puts(ARCHITECTURES);
        return 0;
    }
    snprintf(script, sizeof script, "%s/server.py", dirname(place));
    setenv("STAND_IN_ARCHITECTURES", ARCHITECTURES, 1);
    words[0] = script;
    /* server.py is executed by its first line. */
    execv(script, words);
    perror(script);
    return 1;
}
