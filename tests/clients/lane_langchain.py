"""lane_langchain.py URL MODEL: LangChain's ChatOpenAI against a scripted server (run.sh): invoke, stream, bound tools and their second turn."""
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

url, model = sys.argv[1:3]
c = ChatOpenAI(base_url=url + "/v1", api_key="x", model=model, max_retries=0)
n = 0


def ok(what, got=True):
    global n
    if not got:
        sys.exit("langchain-openai: " + what)
    n += 1


@tool
def bash(command: str) -> str:
    """Runs a command."""
    return "hi"


ok("invoke", c.invoke("hi").content == "Hello there")
ok("stream", "".join(x.content for x in c.stream("hi")) == "Hello there")
first = c.bind_tools([bash]).invoke([HumanMessage("use the tool")])
ok("tools", first.tool_calls[0]["args"] == {"command": "echo hi"})
second = c.bind_tools([bash]).invoke([HumanMessage("use the tool"), first, ToolMessage("hi", tool_call_id=first.tool_calls[0]["id"])])
u1, u2 = first.usage_metadata, second.usage_metadata
ok("second turn", second.content == "It said hi." and u2["input_token_details"]["cache_read"] >= 0.95 * (u1["input_tokens"] + u1["output_tokens"]))
print("%d passed, 0 failed" % n)
