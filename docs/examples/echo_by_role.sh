#!/bin/sh
# A service in shell, one process for each connection: it greets, and answers each line.
#   trio-duplex exec --listen :8443 --cert node.pem --key node.key --trust ca.pem \
#       -- sh docs/examples/echo_by_role.sh
set -eu

case $TRIO_DUPLEX_ROLE in
server) greeting="you spoke first, so I am the TLS server" ;;
client) greeting="you waited for me, so I am the TLS client" ;;
esac
echo "serving $TRIO_DUPLEX_PEER as TLS $TRIO_DUPLEX_ROLE" >&2 # goes to the log

printf 'hello, %s: %s\n' "$TRIO_DUPLEX_PEER" "$greeting"
while read -r line; do
    case $line in
    quit) exit 0 ;;
    *) printf 'you said: %s\n' "$line" ;;
    esac
done
