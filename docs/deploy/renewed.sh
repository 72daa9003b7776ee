#!/bin/sh
# /usr/local/sbin/trio-duplex-renewed CHAIN KEY: install a renewed certificate and its key, and reload.
#
# Both go into one file, which is moved into its place: nobody ever reads a new certificate with an
# old key. TRIO_DUPLEX_FOLDER and TRIO_DUPLEX_GROUP are for those who have other names.
set -eu
folder=${TRIO_DUPLEX_FOLDER:-/etc/trio-duplex}
umask 077
new=$(mktemp "$folder/.node.pem.XXXXXX")
trap 'rm -f "$new"' EXIT
cat "$1" "$2" >"$new"
chgrp "${TRIO_DUPLEX_GROUP:-trio-duplex}" "$new"
chmod 0640 "$new"
mv "$new" "$folder/node.pem"
systemctl reload trio-duplex.service 
