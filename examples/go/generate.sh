#!/bin/sh
# Makes the stubs of the public API in rpc/. Needs protoc, protoc-gen-go and protoc-gen-go-grpc.
set -eu
cd "$(dirname "$0")"
protos=${PROTOS:-../../protos}
files=
# The contracts name packages of no language, so that each file is told here which one it becomes.
options=module=forks
for name in common tokenizer gateway program; do
	files="$files bough/rpc/v1/$name.proto"
	options="$options,Mbough/rpc/v1/$name.proto=forks/rpc"
done
# shellcheck disable=SC2086 # file names without spaces
protoc -I "$protos" --go_out=. --go_opt="$options" --go-grpc_out=. --go-grpc_opt="$options" $files
