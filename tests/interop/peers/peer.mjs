// A peer in Node's tls: node peer.mjs PORT TRUST CERTIFICATE MESSAGE CASE... (as peer.go, where it is explained)

import assert from "node:assert";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import tls from "node:tls";

const [port, trust, node, message, ...cases] = process.argv.slice(2);
const host = "127.0.0.1";

async function connect(manner, version) {
  const options = {
    ca: readFileSync(trust),
    cert: readFileSync(node),
    key: readFileSync(node),
    minVersion: `TLSv${version}`,
    maxVersion: `TLSv${version}`,
  };
  if (manner === "speaking") {
    const socket = tls.connect({ host, port, ...options });
    await once(socket, "secureConnect");
    return socket;
  }
  const tcp = net.connect({ host, port, localAddress: "127.0.0.2" });
  await once(tcp, "connect");
  const socket = new tls.TLSSocket(tcp, {
    isServer: true,
    requestCert: true,
    rejectUnauthorized: true,
    secureContext: tls.createSecureContext(options),
  });
  await once(socket, "secure");
  // Only tls.Server judges a client by itself; here OpenSSL's verdict must be asked for.
  assert.equal(socket.ssl.verifyError(), null);
  return socket;
}

for (const one of cases) {
  try {
    const sent = readFileSync(message);
    const socket = await connect(...one.split(":"));
    socket.write(sent);
    const echo = [];
    for await (const chunk of socket) echo.push(chunk);
    assert(Buffer.concat(echo).equals(sent), "the echo is not what was sent");
    console.log(one, "ok");
  } catch (error) {
    console.log(one, error.code ?? "", error.message);
  }
}
