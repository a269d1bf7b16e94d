// Talks to Inference, to the health service and to server reflection, from the protos alone.
// node client.js HOST:PORT PROTO_ROOT: prints one JSON object with what the server said.
"use strict";

const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protoRoot] = process.argv.slice(2);
const OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

// Both are standards of gRPC; their files belong to no server.
const HEALTH = `syntax = "proto3"; package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }`;
const REFLECTION = `syntax = "proto3"; package grpc.reflection.v1alpha;
message ServerReflectionRequest { oneof message_request { string file_containing_symbol = 4; string list_services = 7; } }
message ServiceResponse { string name = 1; }
message ListServiceResponse { repeated ServiceResponse service = 1; }
message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
message ServerReflectionResponse {
  oneof message_response {
    FileDescriptorResponse file_descriptor_response = 4;
    ListServiceResponse list_services_response = 6;
  }
}
service ServerReflection {
  rpc ServerReflectionInfo(stream ServerReflectionRequest) returns (stream ServerReflectionResponse);
}`;

function load(file, includeDirs) {
  return grpc.loadPackageDefinition(loader.loadSync(file, { ...OPTIONS, includeDirs }));
}

function loadText(name, text) {
  const file = path.join(__dirname, name);
  fs.writeFileSync(file, text);
  return load(file, [__dirname]);
}

function unary(client, method, request) {
  return new Promise((resolve, reject) =>
    client[method](request, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

function generate(client, request) {
  return new Promise((resolve, reject) => {
    const result = { text: "", token_ids: [], pieces: 0 };
    const call = client.Generate(request);
    call.on("data", (piece) => {
      result.text += piece.text;
      result.token_ids.push(...piece.token_ids);
      result.pieces += 1;
      if (piece.finish_reason !== "FINISH_REASON_UNSPECIFIED") {
        result.finish_reason = piece.finish_reason;
        result.usage = piece.usage;
      }
    });
    call.on("error", reject);
    call.on("end", () => resolve(result));
  });
}

function reflect(client, request) {
  return new Promise((resolve, reject) => {
    const call = client.ServerReflectionInfo();
    call.on("data", resolve);
    call.on("error", reject);
    call.write(request);
    call.end();
  });
}

async function main() {
  const credentials = grpc.credentials.createInsecure();
  const bough = load(path.join(protoRoot, "bough/rpc/v1/gateway.proto"), [protoRoot]).bough.rpc.v1;
  const inference = new bough.Inference(address, credentials);
  const health = new (loadText("health.proto", HEALTH).grpc.health.v1.Health)(address, credentials);
  const { ServerReflection } = loadText("reflection.proto", REFLECTION).grpc.reflection.v1alpha;
  const reflection = new ServerReflection(address, credentials);

  const question = JSON.stringify([{ role: "user", content: "What is 7 plus 5?" }]);
  const report = {
    model: (await unary(inference, "DescribeModel", {})).identity,
    health: (await unary(health, "Check", { service: "bough.ready" })).status,
    chat: await generate(inference, { chat: { messages_json: question }, temperature: 0, max_tokens: 40 }),
    ids: await generate(inference, { token_ids: { ids: [1, 2, 3] }, seed: "7", temperature: 1, max_tokens: 5 }),
  };
  report.refusal = await generate(inference, { text: "Hello", temperature: -1 }).catch((error) => ({
    code: error.code,
    details: error.details,
  }));
  const listed = await reflect(reflection, { list_services: "*" });
  report.services = listed.list_services_response.service.map((service) => service.name);
  const found = await reflect(reflection, { file_containing_symbol: "bough.rpc.v1.Inference" });
  report.files = found.file_descriptor_response.file_descriptor_proto.length;
  console.log(JSON.stringify(report));
  for (const client of [inference, health, reflection]) client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
