#!/bin/sh
# Makes the certificates of the tests anew: a CA, what it signed, and a stranger to it; valid from 2020 to 2120, so that
# neither a slow clock nor the years break a test.  Every private key here is public: nothing else may trust this CA.
set -eu
cd "$(dirname "$0")"
rm -f ./*.pem
here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat >config <<EOF
[ca]
default_ca = test
[test]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = policy
unique_subject = no
[policy]
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = CA:false
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
EOF
: >index

certificate() { # NAME EXTENSIONS END SIGNER...: NAME.crt and NAME.key
    name=$1 extensions=$2 end=$3
    shift 3
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$name.key" -out "$name.csr" \
        -subj "/CN=evloop test $name" 2>/dev/null
    openssl ca -batch -notext -config config -extensions "$extensions" -startdate 20200101000000Z -enddate "$end" \
        -in "$name.csr" -out "$name.crt" "$@" 2>/dev/null
}

certificate ca authority 21200101000000Z -selfsign -keyfile ca.key
certificate stranger authority 21200101000000Z -selfsign -keyfile stranger.key
cp ca.crt "$here/ca.pem"
certificate server leaf 21200101000000Z -cert ca.crt -keyfile ca.key
certificate client leaf 21200101000000Z -cert ca.crt -keyfile ca.key
certificate expired leaf 20200102000000Z -cert ca.crt -keyfile ca.key
for name in server client expired stranger; do
    cat "$name.crt" "$name.key" >"$here/$name.pem"
done
openssl ec -in server.key -aes128 -passout pass:secret -out "$here/encrypted.key.pem" 2>/dev/null
