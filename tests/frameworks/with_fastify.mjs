// A service with Fastify, with_fastify.mjs PORT: the answers of the table, and Fastify's ways to say nothing.
import { Readable } from "node:stream";

import { answers, asked, load } from "./answers.mjs";

const app = load("fastify")();
const ways = {
    "send": (reply) => reply.send(),
    "code-204-send": (reply) => reply.code(204).send(),
    "return-null": () => null,
    "send-null-json": (reply) => reply.type("application/json").send("null"),
    "send-object": (reply) => reply.send({}),
    "redirect": (reply) => reply.redirect("/elsewhere"),
    "not-found": (reply) => reply.callNotFound(),
    "throw": () => { throw Object.assign(new Error("a fault of the service"), { statusCode: 418 }); },
};

function answer(name, reply) {
    const { status, headers, body, isStreamed } = answers[name];
    const chunks = [...body].map((byte) => Buffer.of(byte));
    return reply.code(status).headers(headers).send(isStreamed ? Readable.from(chunks) : body);
}

app.post("/gateway/handle", async (request, reply) => {
    const [kind, name] = asked(request.body);
    return kind === "role" ? ways[name](reply) : answer(name, reply);
});
app.get("/measurement/v1/jobs/:name", (request, reply) => answer(request.params.name, reply));
await app.listen({ host: "127.0.0.1", port: Number(process.argv[2]) });
