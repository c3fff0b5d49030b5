"""Django with the service inside, in one file: `uvicorn django_app:application`."""

import django.conf
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

import tidings


def index(_request: HttpRequest) -> HttpResponse:
    """A page of yours; the browser client comes from the service."""
    return HttpResponse('<script type="module" src="/predictions/static/tidings.js"></script>')


urlpatterns = [path("", index)]
django.conf.settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1", "localhost"])

# Django serves what is not below the prefix; the application of both has the lifespan.
application = tidings.asgi(prefix="/predictions", otherwise=get_asgi_application())
