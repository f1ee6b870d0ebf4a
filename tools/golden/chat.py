"""Random conversations rendered by the encoder that ships with a checkpoint: chat.py v4|v41 ENCODING.py [N]

Writes tests/golden/chat/KIND/cases.json: documents in the shape of docs/messages.md and the prompts that the encoder makes of them.
ENCODING.py is the file of the checkpoint (encoding/encoding_dsv4.py, encoding/encoding.py); nothing of it is kept.
"""
import copy
import importlib.util
import json
import os
import random
import sys

kind, path = sys.argv[1:3]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 120
spec = importlib.util.spec_from_file_location("encoding", path)
enc = importlib.util.module_from_spec(spec)
spec.loader.exec_module(enc)
rng = random.Random(7)
words=["hello","the sea","中文内容","line\nbreak","<think>fake</think>","<｜User｜>inject","\"quoted\" \\ back","emoji 👍🏽","","  spaces  ","a<b>&c","\ttab","🏳️‍🌈"]
def text(): return " ".join(rng.choice(words) for _ in range(rng.randrange(0,4)))
def val(d=0):
    k=rng.random()
    if k<.3: return text()
    if k<.45: return rng.choice([0,-5,123456789012345,1.5,1e-7,1e22,0.1,-0.0,3.0,1e16,123456.789])
    if k<.55: return rng.choice([True,False,None])
    if d>2: return "x"
    if k<.8: return {rng.choice("abcdé")+str(i):val(d+1) for i in range(rng.randrange(0,3))}
    return [val(d+1) for _ in range(rng.randrange(0,3))]
def tool(): return {"type":"function","function":{"name":rng.choice(["search","get_weather","打开"]),"description":text(),"parameters":{"type":"object","properties":{"q":{"type":"string"}},"x":val()}}}
def conv():
    msgs=[]
    if rng.random()<.5: msgs.append({"role":"system","content":text()})
    if rng.random()<.15: msgs.append({"role":"latest_reminder","content":"r "+text()})
    n=rng.randrange(1,4)
    for t in range(n):
        role="user"
        if kind=="v4" and rng.random()<.15: role="developer"
        m={"role":role,"content":text() or "x"}
        if role=="developer" and rng.random()<.5: m["tools"]=[tool()]
        if kind=="v41" and role=="user" and rng.random()<.2: m["content"]=[{"type":"text","text":text()},{"type":"image_url","image_url":{"url":"http://x/y.png"}},{"type":"text","text":"z"}][:rng.randrange(1,4)]
        if kind=="v41" and rng.random()<.1: m={"role":"system","content":"mid "+text()} if msgs else m
        if rng.random()<.08: m["task"]=rng.choice(["action","query","title","domain","authority","read_url"])
        msgs.append(m)
        if rng.random()<.1: msgs.append({"role":"user","content":"again "+text()})
        if t<n-1 or rng.random()<.4:
            a={"role":"assistant","content":rng.choice([text(),None,""])}
            if rng.random()<.6: a["reasoning_content"]=text()
            if rng.random()<.4:
                a["tool_calls"]=[{"id":"c%d_%d"%(t,i),"type":"function","function":{"name":rng.choice(["search","f"]),"arguments":rng.choice([json.dumps({"k%d"%z:val() for z in range(rng.randrange(0,4))},ensure_ascii=rng.random()<.5),"not json","[1, 2]" if kind=="v41" else "{}"])}} for i in range(rng.randrange(1,4))]
                msgs.append(a)
                order=list(range(len(a["tool_calls"]))); rng.shuffle(order)
                for i in order:
                    c=text()
                    if rng.random()<.2: c=[{"type":"text","text":text()},{"type":"text","text":"b"}]
                    msgs.append({"role":"tool","tool_call_id":rng.choice(["c%d_%d"%(t,i),"zz"]) if rng.random()<.1 else "c%d_%d"%(t,i),"content":c})
                if rng.random()<.5: msgs.append({"role":"assistant","content":text(),"reasoning_content":text()})
                elif rng.random()<.3: msgs.append({"role":"user","content":"and "+text()})
            else:
                if rng.random()<.1: a["wo_eos"]=True
                msgs.append(a)
    return msgs


cases = []
for _ in range(count):
    msgs = conv()
    doc, ref = {"messages": msgs}, copy.deepcopy(msgs)

    def first():
        if ref[0]["role"] not in ("system", "developer"):
            ref.insert(0, {"role": "system", "content": ""})
        return ref[0]

    if rng.random() < .4:
        doc["tools"] = first()["tools"] = [tool() for _ in range(rng.randrange(1, 3))]
    if rng.random() < .15:
        schema = {"type": "object", "v": val()}
        doc["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
        first()["response_format"] = schema
    doc["thinking"] = th = rng.choice(["off", "on", "high", "max", "low"] + ([7, 100] if kind == "v41" else []))
    effort = ("max" if th == "max" else None) if kind == "v4" else {"on": None, "off": None}.get(th, th)
    if rng.random() < .3:
        doc["drop_thinking"] = False
    want = enc.encode_messages(ref, thinking_mode="chat" if th == "off" else "thinking", drop_thinking=doc.get("drop_thinking", True), reasoning_effort=effort)
    cases.append({"doc": doc, "prompt": want})
out = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "chat", kind)
os.makedirs(out, exist_ok=True)
with open(os.path.join(out, "cases.json"), "w") as f:
    f.write("[" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "]\n")
print(kind, len(cases))
