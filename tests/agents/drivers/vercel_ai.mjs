// Vercel AI SDK: generateText and streamText over its OpenAI and Anthropic providers.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const MODEL = 'laboratory-1';
const [, , gateway] = process.argv;

function modelOf(scenario, apiKey) {
  const { headers } = scenario;
  if (scenario.dialect === 'messages') {
    return createAnthropic({ apiKey, headers, baseURL: `${gateway}/anthropic/v1` })(MODEL);
  }
  const provider = createOpenAI({ apiKey, headers, baseURL: `${gateway}/openai/v1` });
  return scenario.dialect === 'chat' ? provider.chat(MODEL) : provider.responses(MODEL);
}

function toolsOf(scenario) {
  const text = (...names) => z.object(Object.fromEntries(names.map((n) => [n, z.string()])));
  const read = tool({
    description: 'Read a file.',
    inputSchema: text('path'),
    execute: async ({ path }) => `contents of ${path}`,
  });
  return {
    read,
    write: tool({
      description: 'Write a file.',
      inputSchema: text('path', 'text'),
      execute: async ({ text }) => `wrote ${text.length} characters`,
    }),
    search: tool({
      description: 'Search the index.',
      inputSchema: text('query'),
      execute: async () => { throw new Error('the index is not there'); },
    }),
    fetch: tool({
      description: 'Fetch a page.',
      inputSchema: text('url'),
      execute: async ({ url }) => { throw new Error(`cannot reach ${url}`); },
    }),
    delegate: tool({
      description: 'Hand a task to another agent.',
      inputSchema: text('task'),
      execute: async ({ task }) => {
        const found = await generateText({
          model: modelOf(scenario, scenario.tasks[task]),
          system: 'You do one small task and report.',
          prompt: task,
          tools: { read },
          stopWhen: stepCountIs(10),
          maxRetries: 0,
        });
        return found.text;
      },
    }),
  };
}

async function oneTurn(scenario, key, turn, messages) {
  const abort = new AbortController();
  const options = {
    model: modelOf(scenario, key),
    system: 'You are a careful assistant. Use the tools.',
    messages,
    tools: toolsOf(scenario),
    stopWhen: stepCountIs(turn.cap ?? 20),
    maxRetries: scenario.retries,
    abortSignal: abort.signal,
  };
  if (!scenario.stream) return (await generateText(options)).response.messages;
  const result = streamText({ ...options, onError() {} });
  for await (const part of result.fullStream) {
    if (turn.aborts && part.type === 'text-delta') {
      abort.abort();
      return [];
    }
  }
  return (await result.response).messages;
}

async function run({ headers, ...rest }, key) {
  const scenario = { ...rest, headers: headers[key] };
  let messages = [];
  for (const turn of scenario.turns) {
    messages.push({ role: 'user', content: turn.user });
    try {
      messages = messages.concat(await oneTurn(scenario, key, turn, messages));
    } catch (error) {
      if (!/AI_(APICall|Retry|NoOutput)/.test(error.name)) throw error;
    }
  }
}

let input = '';
for await (const chunk of process.stdin) input += chunk;
for (const scenario of JSON.parse(input)) {
  const found = await Promise.allSettled(scenario.keys.map((key) => run(scenario, key)));
  for (const { reason } of found) {
    if (!reason) continue;
    console.error(`${scenario.name} failed:`, reason);
    process.exitCode = 1;
  }
}
