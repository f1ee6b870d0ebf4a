"""What no schema says of requests, for schemathesis: ids are below the vocabulary's size."""
import schemathesis

VOCABULARY = 700


def below(ids):
    return [below(v) if isinstance(v, list) else v % VOCABULARY if isinstance(v, int) and v >= 0 else v for v in ids]


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    for key in ("prompt", "tokens"):
        if isinstance(body.get(key), list):
            body[key] = below(body[key])
    if isinstance(body.get("logit_bias"), dict):
        body["logit_bias"] = {str(int(k) % VOCABULARY) if k.isdecimal() else k: v for k, v in body["logit_bias"].items()}
    return body
