// The bearer token, compared in constant time. Both sides are hashed first, so that their lengths do not show either.
const encoder = new TextEncoder();

export async function authorized(request, token) {
  const [given, wanted] = await Promise.all([
    digest(request.headers.get("authorization") ?? ""),
    digest(`Bearer ${token}`),
  ]);
  return crypto.subtle.timingSafeEqual(given, wanted);
}

function digest(text) {
  return crypto.subtle.digest("SHA-256", encoder.encode(text));
}
