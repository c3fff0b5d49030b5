"""What each member of a JSON object on the wire means: `/openapi.json` and the reference say it from here."""

from typing import Any

PROPERTIES: dict[str, str] = {
    "predictionId": "The prediction's id, 1 to 256 bytes.",
    "kind": "`group`: this record stands for a group of predictions. Absent: for one prediction.",
    "status": "Where the prediction stands: starting, processing, succeeded, failed or canceled.",
    "version": "Rises with every change of the record, from 1.",
    "createdAt": "When it was created, in ms since the epoch.",
    "updatedAt": "When it last changed, in ms since the epoch.",
    "payload": "The input for the provider, as it was given; any JSON.",
    "prompt": "The prompt.",
    "model": "The model's name at its provider.",
    "provider": "The provider's name, such as `replicate`.",
    "providerId": "The prediction's id at its provider.",
    "providerUrls": "Addresses that the provider gave for it, by name.",
    "owner": "Whose it is: who may see it.",
    "tags": "Its tags; a report may add some and never removes one.",
    "output": "The output; any JSON.",
    "text": "The text so far, up to 32 KiB.",
    "textLength": "Bytes of the text in UTF-8.",
    "textMissing": "The length that the text is known to reach, if pieces of it are missing.",
    "textEpoch": "The version at which another text last replaced the text.",
    "textClosed": "True: nothing is appended any more.",
    "textParts": "The parts of a longer text that lie in object storage.",
    "textTail": "What follows the parts.",
    "textProducers": "The last 16 writers that number their pieces; the newest comes last.",
    "textType": "The text's content type, unless it is `text/plain`.",
    "textSeq": "The last `Stream-Seq` that was taken.",
    "imageUrl": "The address of its picture.",
    "imagePath": "The path of its picture in the archive.",
    "assets": "Its archived files, each with its address and type.",
    "error": "Why it failed, for people.",
    "progress": "From 0 to 1.",
    "logs": "The end of its logs.",
    "logsLength": "Characters of the whole logs.",
    "estimatedTime": "How long it is expected to take, in ms.",
    "generationTime": "How long it took, in ms.",
    "deadline": "When it fails unless it has ended, in ms since the epoch.",
    "webhook": "The server that is told of its steps: the host, and the address encrypted.",
    "webhookEvents": "The statuses that this server is told of; absent: those that end it.",
    "waiting": "True: it waits for a person to answer `question`.",
    "question": "What was asked last: a text, or an object with `text` and perhaps `choices`.",
    "questionId": "What tells this question from another one.",
    "questionNumber": "How many questions there were up to this one.",
    "answer": "The answer to it; any JSON.",
    "answerId": "The id of the event that brought the answer.",
    "answeredBy": "Who answered: the `sub` of the token.",
    "answeredAt": "When it was answered, in ms since the epoch.",
    "answerTakenAt": "When its provider took the answer, in ms since the epoch.",
    "askedAs": "The provider's id of the job that asked, if the prediction goes on as another.",
    "cancelRequestedAt": "When somebody asked to cancel it, in ms since the epoch.",
    "attempt": "The id of its submission to the provider.",
    "createId": "The id of the event that created it.",
    "pending": "The end that has been reported and is shown when its files are archived.",
    "assetsError": "Why its files, or some of them, could not be archived.",
    "errorCode": "Why it failed, for programs: `deadline`.",
    "lateStatus": "How it ended at its provider after its deadline had failed it here.",
    "stream": "Read the provider's stream, so that the answer grows as `text`.",
    "retries": "How often it is tried again if it fails, or the policy that says so.",
    "retryOf": "The prediction that this one tries again.",
    "retryCount": "How many attempts there were before this one.",
    "retriedAs": "The prediction that tries this one again.",
    "retriedWith": "The provider and model of the next attempt, if they differ.",
    "group": "The group that it belongs to.",
    "index": "Its place in its group, from 0.",
    "memberStatus": "A letter for each member of a group: q queued, p processing, s succeeded, "
    "f failed, c canceled.",
    "memberRetries": "How often members of a group were tried again, by place.",
    "members": "A reference to the ids of a group's members.",
    "orders": "The orders of a group's members.",
    "transitions": "Every step that it took, oldest first.",
    "bytes": "Its size in bytes.",
    "at": "When it happened, in ms since the epoch.",
    "ref": "The client's own name for the message; the answer repeats it.",
    "type": "Which message this is.",
    "predictions": "Ids of predictions.",
    "tag": "Everything with this tag.",
    "all": "True: everything.",
    "success": "True; a problem has false.",
    "data": "What was asked for.",
    "prediction": "The whole record.",
    "position": "`partition:offset` in the log.",
    "code": "Which error it is, for programs.",
    "offset": "Bytes of the text before this piece.",
    "hash": "`sha256-` and the hash of the content in hexadecimal.",
    "anonymous": "True: the session has no token.",
}
"""By the member's name, wherever it means the same."""

MEMBERS: dict[str, str] = {
    "Blob.$blob": "`sha256-` and the hash of the content in hexadecimal: its address under `/blobs/`.",
    "Blob.length": "Items of a list, characters of a string, members of an object.",
    "Blob.kind": "What it is, unless it is a list or a string.",
    "Prediction.source": "The log that it was built from, with the last offset of each partition.",
    "Transition.source": "Who reported the step.",
    "Transition.id": "The id of the event.",
    "Transition.from": "The status before; null at the first step.",
    "Transition.to": "The status after.",
    "Source.log": "The log's name.",
    "Source.offsets": "By partition, the offset of the last event applied.",
    "TextPart.crc": "CRC-32 of the whole text up to the part's end.",
    "Producer.id": "The writer's name.",
    "Producer.epoch": "Rises when the writer starts over; pieces of an older epoch are refused.",
    "Producer.seq": "The number of its last piece, from 0.",
    "Changes.id": "The event's own id, for the audit trail.",
    "NewPrediction.predictionId": "The new prediction's id; absent: one is made.",
    "NewGroup.orders": "The members' orders, with whatever differs from the group's own.",
    "Answer.answer": "Any JSON but null; one of the choices, if the question has some.",
    "Answer.questionNumber": "The question that is answered; absent: the one that stands.",
    "Redrive.positions": "The dead letters at these `partition:offset`, as the list names them.",
    "Redrive.reason": "The dead letters with this reason.",
    "Redrive.prediction": "The dead letters of this prediction.",
    "Redrive.all": "True: all dead letters.",
    "RetryPolicy.max": "How many times at most.",
    "RetryPolicy.backoff": "Ms before the first retry; each further one waits longer.",
    "RetryPolicy.on": "Error codes, and parts of error texts, after which it is tried again; none: every failure.",
    "RetryPolicy.then": "Who makes the first retry, the second and so on; none: who failed.",
    "Auth.token": "The token.",
    "Subscribe.model": "Everything of this model.",
    "Subscribe.owner": "Everything of this owner.",
    "Subscribe.known": "Versions that the client has, by id: no snapshot comes for these.",
    "Subscribe.limit": "At most so many snapshots.",
    "Subscribe.snapshot": "False: no snapshots, only changes.",
    "Subscribe.text": "`append`: growing texts come in pieces, for the whole session.",
    "Unsubscribe.model": "Everything of this model.",
    "Unsubscribe.owner": "Everything of this owner.",
    "Problem.type": "A URI for this kind of problem.",
    "Problem.title": "The kind of problem, for people.",
    "Problem.status": "The HTTP status.",
    "Problem.detail": "What is wrong and what to do, for people.",
    "Problem.error": "The same in a few words.",
    "Problem.errorCode": "The same as `code`.",
    "Health.status": "`ok` if it is alive, `ready` if it can serve.",
    "PredictionList.data": "The records, newest first.",
    "PredictionList.cursor": "For the next page; null at the end.",
    "PredictionList.searched": "How many records were looked through.",
    "PredictionList.counts.total": "How many there are.",
    "PredictionList.counts.complete": "False: at least so many.",
    "PredictionList.counts.byStatus": "How many there are with each status.",
    "DeadLetterList.data": "The dead letters, newest first.",
    "DeadLetterList.open": "How many are neither tried again nor dismissed.",
    "DeadLetterList.openReasons": "How many of these have each reason.",
    "DeadLetterList.count": "How many there are.",
    "DeadLetterList.reasons": "How many have each reason.",
    "RawReports.data.provider": "Whose webhook it is; null: an event in Tidings' own form.",
    "RawReports.data.delivery": "The provider's id of the delivery.",
    "RawReports.data.body": "The body as it came.",
    "Append.text": "The piece.",
    "Append.version": "The version that has been written since.",
    "Deleted.reason": "`expired`: it is hidden by its time to live.",
    "Synced.more": "True: the limit left some snapshots out.",
    "Welcome.session": "The session's id, which the service's log names.",
    "Welcome.heartbeat": "Ms between pings.",
    "Error.message": "What is wrong, for people.",
    "Bye.retryAfter": "When to come back, in ms from now.",
}
"""By the object's name and the member's, if it means something else there."""


def described(schemas: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The schemas with a description of each member; what has one keeps it."""
    return {name: _object(name, schema) for name, schema in schemas.items()}


def _object(path: str, schema: Any) -> Any:
    if isinstance(schema, list):
        return [_object(path, part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: {member: _member(path, member, found) for member, found in value.items()}
        if name == "properties"
        else _object(path, value)
        for name, value in schema.items()
    }


def _member(path: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = _object(f"{path}.{name}", schema)
    text = MEMBERS.get(f"{path}.{name}") or PROPERTIES.get(name)
    return inner if "description" in inner or text is None else {**inner, "description": text}
