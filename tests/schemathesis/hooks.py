"""What Schemathesis does not know: NDJSON, and that after 101 a connection is no longer HTTP."""

import schemathesis

NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def ndjson(context, value):
    return {"data": value.encode()}


@schemathesis.hook
def filter_case(context, case):
    # Whatever is sent as NDJSON is text: there is no such body of another type.
    return case.media_type != NDJSON or isinstance(case.body, str)


@schemathesis.hook
def before_call(context, case, kwargs):
    def close_upgraded(response, **_):
        if response.status_code == 101:
            response.raw.close()

    kwargs["hooks"] = {"response": close_upgraded}
