// Receivers as people write them: each path verifies, or reads, what it is meant for.
// Answers 204 when it is content and 400 when it is not. Plain node, nothing installed.

const { createHmac, createPublicKey, timingSafeEqual, verify } = require("node:crypto");
const { createServer } = require("node:http");

const { secret, publicKey } = JSON.parse(process.argv[2]);

const hmac = (key, ...parts) => {
  const hash = createHmac("sha256", key);
  parts.forEach((part) => hash.update(part));
  return hash.digest();
};

const equal = (a, b) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));

const content = (headers, body) =>
  Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);

const signatures = (headers, version) =>
  headers["webhook-signature"].split(" ").filter((each) => each.startsWith(`${version},`));

const ed25519 = (text) => {
  const prefix = Buffer.from("302a300506032b6570032100", "hex"); // of a raw key in SPKI
  const key = Buffer.concat([prefix, Buffer.from(text.slice("whpk_".length), "base64")]);
  return createPublicKey({ key, format: "der", type: "spki" });
};

const receivers = {
  standard: (headers, body) => {
    const key = Buffer.from(secret.slice("whsec_".length), "base64");
    const expected = `v1,${hmac(key, content(headers, body)).toString("base64")}`;
    return signatures(headers, "v1").some((each) => equal(each, expected));
  },
  ed25519: (headers, body) =>
    signatures(headers, "v1a").some((each) =>
      verify(null, content(headers, body), ed25519(publicKey), Buffer.from(each.slice(4), "base64")),
    ),
  github: (headers, body) =>
    equal(headers["x-hub-signature-256"], `sha256=${hmac(secret, body).toString("hex")}`),
  stripe: (headers, body) => {
    const [time, signature] = headers["stripe-signature"].split(",");
    const expected = hmac(secret, `${time.slice(2)}.`, body).toString("hex");
    return equal(signature, `v1=${expected}`);
  },
  slack: (headers, body) => {
    const start = `v0:${headers["x-slack-request-timestamp"]}:`;
    return equal(headers["x-slack-signature"], `v0=${hmac(secret, start, body).toString("hex")}`);
  },
  shopify: (headers, body) =>
    equal(headers["x-shopify-hmac-sha256"], hmac(secret, body).toString("base64")),
  own: (headers, body) => equal(headers["x-signature"], `v2=${hmac(secret, body).toString("hex")}`),

  // As Logto documents: the signing key, the raw body, and equality.
  logto: (headers, body) => {
    const signature = createHmac("sha256", secret).update(body).digest("hex");
    const { event, hookId } = JSON.parse(body);
    return signature === headers["logto-signature-sha-256"] && event === "User.Created" && !!hookId;
  },

  // As Casdoor documents: a JSON body whose `action` says what happened.
  casdoor: (headers, body) => {
    if (headers["content-type"] !== "application/json") return false;
    const { action, object, extendedUser } = JSON.parse(body);
    return action === "User.Created" && JSON.parse(object).name === "Zoë <R&D>" && !extendedUser;
  },
};

const accepts = (request, body) => receivers[request.url.slice(1)](request.headers, body);

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let good = false;
  try {
    good = request.method === "POST" && accepts(request, Buffer.concat(chunks));
  } catch (error) {
    console.error(request.url, error.message);
  }
  response.writeHead(good ? 204 : 400).end();
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
