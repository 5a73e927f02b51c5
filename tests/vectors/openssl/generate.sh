#!/bin/sh
# Makes the message vectors beside this file: sh generate.sh OUTPUT_DIRECTORY
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
tmp=$(mktemp -d)
cd "$tmp"

openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 36500 -subj "/CN=Vector CA" \
    -addext keyUsage=critical,digitalSignature,keyCertSign,cRLSign 2>/dev/null
issue() { # issue NAME ALGORITHM...: a key and a certificate of the CA
    name=$1; shift
    openssl genpkey "$@" -out "$name.key" 2>/dev/null
    openssl req -new -key "$name.key" -subj "/O=cmpd/CN=$name" -addext "subjectAltName=DNS:$name.example" -out "$name.csr"
    printf 'keyUsage=critical,digitalSignature\nsubjectAltName=DNS:%s.example\n' "$name" >"$name.ext"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -days 36500 -extfile "$name.ext" -out "$name.pem" 2>/dev/null
}
issue server -algorithm EC -pkeyopt ec_paramgen_curve:P-256
issue rsa -algorithm RSA -pkeyopt rsa_keygen_bits:2048
issue ec -algorithm EC -pkeyopt ec_paramgen_curve:P-256

run() { # run NAME MESSAGES ARGUMENT...: one transaction of MESSAGES requests
    name=$1; n=$2; shift 2
    reqs= rsps= i=1
    while [ "$i" -le "$n" ]; do
        reqs="$reqs${reqs:+,}$out/$name-$i-req.der"; rsps="$rsps${rsps:+,}$out/$name-$i-rsp.der"; i=$((i + 1))
    done
    openssl cmp -config "" -use_mock_srv -reqout "$reqs" -rspout "$rsps" -certout got.pem "$@" >log 2>&1 || { cat log >&2; exit 1; }
}
pbm() { # pbm NAME MESSAGES ARGUMENT...: protected with PasswordBasedMac
    name=$1; n=$2; shift 2
    run "$name" "$n" -ref vector-ref -secret pass:vector-secret -srv_ref vector-ref -srv_secret pass:vector-secret \
        -recipient "/CN=Vector CA" "$@"
}
sig() { # sig NAME MESSAGES KEY ARGUMENT...: protected with a signature of KEY
    name=$1; n=$2; key=$3; shift 3
    run "$name" "$n" -cert "$key.pem" -key "$key.key" -trusted ca.pem -srv_cert server.pem -srv_key server.key \
        -srv_trusted ca.pem "$@"
}

pbm ir-pbm-ec 2 -cmd ir -newkey ec.key -subject "/O=cmpd/CN=ec" -sans ec.example -rsp_cert ec.pem -rsp_capubs ca.pem
pbm ir-pbm-rsa-sha256 2 -cmd ir -newkey rsa.key -subject "/O=cmpd/CN=rsa" -mac hmacWithSHA256 -days 30 -rsp_cert rsa.pem
pbm ir-pbm-implicit 1 -cmd ir -newkey ec.key -subject "/O=cmpd/CN=ec" -implicit_confirm -grant_implicitconf -rsp_cert ec.pem
sig ir-sig-ec 2 ec -cmd ir -newkey ec.key -subject "/O=cmpd/CN=ec" -rsp_cert ec.pem
sig ir-sig-rsa 2 rsa -cmd ir -newkey rsa.key -subject "/O=cmpd/CN=rsa" -rsp_cert rsa.pem
sig cr-sig-ec 2 ec -cmd cr -newkey rsa.key -subject "/O=cmpd/CN=rsa" -rsp_cert rsa.pem -popo 1
sig cr-raverified 2 ec -cmd cr -newkey ec.key -subject "/O=cmpd/CN=ec" -rsp_cert ec.pem -popo 0 -accept_raverified
sig kur-sig-ec 2 ec -cmd kur -newkey ec.key -rsp_cert ec.pem
sig kur-sig-rsa 2 rsa -cmd kur -newkey rsa.key -rsp_cert rsa.pem
pbm p10cr-pbm-ec 2 -cmd p10cr -csr ec.csr -rsp_cert ec.pem
sig p10cr-sig-rsa 2 rsa -cmd p10cr -csr rsa.csr -rsp_cert rsa.pem
sig rr-sig-ec 1 ec -cmd rr -oldcert ec.pem -revreason 1 -rsp_cert ec.pem
sig genm-sig-ec 1 ec -cmd genm -infotype signKeyPairTypes -geninfo 1.2.3.4:int:56789
pbm genm-pbm 1 -cmd genm -infotype caCerts
pbm poll-pbm-ec 3 -cmd ir -newkey ec.key -subject "/O=cmpd/CN=ec" -rsp_cert ec.pem -poll_count 2 -check_after 1 -disable_confirm
openssl x509 -in ca.pem -outform DER -out "$out/ca.der"
rm -r "$tmp"
