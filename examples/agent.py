"""A small agent with a tool, to try agent-telemetry with.

    pip install openai
    export OPENAI_API_KEY=…
    export OPENAI_BASE_URL=http://127.0.0.1:8080/p/shop/s/thread-42/openai/v1
    python examples/agent.py "I want a refund for order A-1042."

It knows nothing of agent-telemetry: the base URL is all there is.
"""

import json
import os
import sys

from openai import OpenAI

ORDERS = {"A-1042": {"total": 49.9, "currency": "EUR", "status": "delivered"}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"order": {"type": "string"}},
                "required": ["order"],
            },
        },
    }
    for name, description in (
        ("get_order", "Look an order up."),
        ("refund", "Give the money for an order back."),
    )
]


def run_tool(name: str, order: str) -> str:
    if order not in ORDERS:
        return f"Error: no order {order}"
    if name == "refund":
        ORDERS[order]["status"] = "refunded"
    return json.dumps(ORDERS[order])


def main() -> None:
    client, model = OpenAI(), os.environ.get("MODEL", "gpt-4o-mini")
    messages = [{"role": "system", "content": "You are the support agent of a small shop."}]
    for question in sys.argv[1:] or ["I want a refund for order A-1042."]:
        messages.append({"role": "user", "content": question})
        while True:
            answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
            said = answer.choices[0].message
            messages.append(said.model_dump(exclude_none=True))
            if not said.tool_calls:
                break
            for call in said.tool_calls:
                order = json.loads(call.function.arguments).get("order", "")
                result = run_tool(call.function.name, order)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        print(said.content)


if __name__ == "__main__":
    main()
