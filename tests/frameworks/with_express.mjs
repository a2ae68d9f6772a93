// A service with Express, with_express.mjs PORT: the answers of the table, and Express's ways to say nothing.
import { answers, asked, load } from "./answers.mjs";

const express = load("express");
const app = express();
const ways = {
    "end": (response) => response.end(),
    "send-status-204": (response) => response.sendStatus(204),
    "status-204-end": (response) => response.status(204).end(),
    "json-undefined": (response) => response.json(undefined),
    "json-null": (response) => response.json(null),
    "json-204": (response) => response.status(204).json({}),
    "send-null": (response) => response.send(null),
    "redirect": (response) => response.redirect("/elsewhere"),
    "next": (_response, next) => next(),
    "throw": () => { throw new Error("a fault of the service"); },
};

function answer(name, response) {
    const { status, headers, body, isStreamed } = answers[name];
    response.writeHead(status, headers);
    if (isStreamed) {
        for (const byte of body) response.write(Buffer.of(byte));
        response.end();
    } else {
        response.end(body);
    }
}

// Otherwise a fault is printed with its stack.
app.set("env", "test");
app.post("/gateway/handle", express.json(), (request, response, next) => {
    const [kind, name] = asked(request.body);
    if (kind === "role") ways[name](response, next);
    else answer(name, response);
});
let begun = 0;
app.post("/measurement/v1/jobs/dies/:parts", (request, response) => {
    begun += 1;
    response.writeHead(201).flushHeaders();
    for (let part = 0; part < Number(request.params.parts); part++) response.write("part");
    response.destroy();
});
app.get("/measurement/v1/jobs/begun", (_request, response) => response.json(begun));
app.get("/measurement/v1/jobs/:name", (request, response) => answer(request.params.name, response));
app.listen(Number(process.argv[2]), "127.0.0.1");
