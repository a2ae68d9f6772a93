"""A service with Django on waitress, with_django.py PORT: the answers of the table, and Django's ways to say nothing."""
import json
import logging
import sys

import django
import waitress
from answers import ANSWERS, asked
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import Http404, HttpResponse, HttpResponseNotModified, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of the tests", LOGGING_CONFIG=None,
                   MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
django.setup()
logging.disable()


def missing():
    raise Http404("No such lobby")


WAYS = {
    "response-204": lambda: HttpResponse(status=204),
    "response": HttpResponse,
    "json-response-none": lambda: JsonResponse(None, safe=False),
    "json-204": lambda: JsonResponse({}, status=204),
    "redirect": lambda: HttpResponseRedirect("/elsewhere"),
    "not-modified": HttpResponseNotModified,
    "http404": missing,
    "return-none": lambda: None,
}


def answered(name):
    answer = ANSWERS[name]
    if answer.is_streamed:
        return StreamingHttpResponse(answer.chunks(), status=answer.status, headers=answer.headers)
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)


def handle(request):
    kind, name = asked(json.loads(request.body))
    return WAYS[name]() if kind == "role" else answered(name)


urlpatterns = [
    path("gateway/handle", handle),
    path("slash/gateway/handle/", lambda request: JsonResponse({})),
    path("measurement/v1/jobs/<name>", lambda request, name: answered(name)),
]
waitress.serve(get_wsgi_application(), listen=f"127.0.0.1:{sys.argv[1]}", threads=4, _quiet=True)
