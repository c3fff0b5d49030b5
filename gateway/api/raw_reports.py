"""`GET /api/predictions/{id}/report`: the bodies that a record was made from, for admins.

They are read back from the events, at the positions that the record names. A body is shown as it
came, proofs in it included, so nobody else gets it.
"""

import msgspec
from aiohttp import web

from tidings.gateway.api.predictions import Records
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.fast_response import send_counted
from tidings.gateway.http.held_bytes import HeldBytes, Kind
from tidings.gateway.http.problems import Handler
from tidings.storage.prediction import Prediction
from tidings.streams.log.protocol import Log
from tidings.streams.processing.raw_reports import RawReport, read_raw_reports


def raw_reports_handler(
    guard: RequestGuard, records: Records, log: Log, held: HeldBytes
) -> Handler:
    """The handler."""

    async def report(request: web.Request) -> web.StreamResponse:
        permissions = await guard.require_admin(request)
        stored = await records.find(request.match_info["id"], fresh=True)
        record = stored.standing()
        reports = await read_raw_reports(log, record) if isinstance(record, Prediction) else []
        body = msgspec.json.encode({"success": True, "data": [_shown(one) for one in reports]})
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        response = web.Response(body=body, headers=headers, content_type="application/json")
        with held.account(permissions.subject) as account:
            account.count(Kind.PAGES, len(body))  # in any case: an event may be over every limit
            return await send_counted(request, response, account)

    return report


def _shown(report: RawReport) -> dict[str, object]:
    return {
        "position": str(report.position),
        "at": report.timestamp,
        "provider": report.provider,
        "delivery": report.delivery,
        "bytes": len(report.body),
        "body": report.body.decode("utf-8", "replace"),
    }
