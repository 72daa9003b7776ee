/* A service in C, one process for each connection: it greets, and answers each line.
 *
 *   cc -O2 -Wall -Wextra -o echo_by_role docs/examples/echo_by_role.c
 *   trio-duplex exec --listen :8443 --cert node.pem --key node.key --trust ca.pem -- ./echo_by_role
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    const char *role = getenv("TRIO_DUPLEX_ROLE"), *peer = getenv("TRIO_DUPLEX_PEER");
    char line[4096];

    if (role == NULL || peer == NULL) {
        fputs("start me by trio-duplex exec\n", stderr);
        return 2;
    }
    fprintf(stderr, "serving %s as TLS %s\n", peer, role); /* goes to the log */
    setvbuf(stdout, NULL, _IOLBF, 0); /* a pipe is not a terminal: write each line at once */
    printf("hello, %s: %s\n", peer,
           strcmp(role, "server") == 0 ? "you spoke first, so I am the TLS server"
                                       : "you waited for me, so I am the TLS client");
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "quit\n") == 0)
            return 0;
        printf("you said: %s", line);
    }
    return ferror(stdin) || ferror(stdout) ? 1 : 0;
}
