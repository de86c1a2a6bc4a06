// java.net.http.HttpClient: obeys the properties http.proxyHost and http.proxyPort, and no variable. The steps are those of
// plan.py: lines of JSON in, lines of JSON out.

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.SequenceInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.regex.Pattern;

public class WithHttpClient {
    private final String base;
    private final String own;
    private HttpClient client;

    WithHttpClient(String place) {
        base = text(place, "base");
        own = text(place, "own");
        fresh();
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        WithHttpClient plan = new WithHttpClient(lines.readLine());
        System.out.println("{\"version\":" + quoted("" + Runtime.version().feature()) + "}");
        for (String step = lines.readLine(); step != null; step = lines.readLine()) {
            try {
                System.out.println(plan.take(step));
            } catch (Exception error) {
                error.printStackTrace();
                System.out.println("{\"error\":" + quoted(error.getClass().getSimpleName()) + "}");
            }
        }
    }

    private String take(String step) throws Exception {
        switch (text(step, "step")) {
            case "get":
                return told(send(request("/get?q=a%20b&list=1&list=2")));
            case "json":
                String body = find(step, "body", "(\\{.*\\}),\"step\"");
                return told(send(request("/json").header("content-type", "application/json").POST(publisher(body))));
            case "upload":
                BodyPublisher pieces = BodyPublishers.ofInputStream(() -> upload(number(step, "pieces")));
                return told(send(request("/upload").header("content-type", "text/plain").POST(pieces)));
            case "large":
                byte[] large = send(request("/large")).body();
                String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(large));
                return "{\"bytes\":" + large.length + ",\"sha256\":" + quoted(digest) + "}";
            case "events":
                return events();
            case "head":
                return told(send(request("/sized").method("HEAD", BodyPublishers.noBody())));
            case "no_content":
                return told(send(request("/none")));
            case "not_modified":
                return told(send(request("/cached").header("if-none-match", "\"1\"")));
            case "redirect":
                return told(send(request("/redirect")));
            case "redirect_path":
                return told(send(request("/redirect-path")));
            case "keep_alive":
                fresh();
                for (int n = 1; n < number(step, "requests"); n++) {
                    send(request("/keep-" + n));
                }
                return told(send(request("/keep-0")));
            case "denied":
                return refusal(send(request("/denied")));
            default:
                throw new IllegalArgumentException(step);
        }
    }

    private String events() throws Exception {
        List<String> events = new ArrayList<>();
        HttpResponse<InputStream> answer = client.send(request("/events").build(), BodyHandlers.ofInputStream());
        BufferedReader lines = new BufferedReader(new InputStreamReader(answer.body(), StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            if (line.startsWith("data: {")) {
                String event = text(line, "content");
                events.add(event);
                // The upstream holds each event back until the one before was acknowledged.
                send(request("/ack-" + event));
            }
        }
        return "{\"events\":[" + String.join(",", events) + "]}";
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(base + path)).header("authorization", "Bearer " + own).header("x-api-key", own);
    }

    private HttpResponse<byte[]> send(HttpRequest.Builder request) throws Exception {
        return client.send(request.build(), BodyHandlers.ofByteArray());
    }

    /** Forgets all connections. Its default is HTTP/2 where the other side agrees to it. */
    private void fresh() {
        client = HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NORMAL).build();
    }

    private static BodyPublisher publisher(String body) {
        return BodyPublishers.ofString(body);
    }

    /** Pieces of 16 KiB that tell their place. */
    private static InputStream upload(int pieces) {
        List<InputStream> streams = new ArrayList<>();
        for (int n = 0; n < pieces; n++) {
            byte[] piece = String.format("%015d%n", n).repeat(1024).getBytes(StandardCharsets.UTF_8);
            streams.add(new ByteArrayInputStream(piece));
        }
        return new SequenceInputStream(Collections.enumeration(streams));
    }

    private static String told(HttpResponse<byte[]> answer) {
        String length = answer.headers().firstValue("content-length").map(WithHttpClient::quoted).orElse("null");
        String text = quoted(new String(answer.body(), StandardCharsets.UTF_8));
        return "{\"status\":" + answer.statusCode() + ",\"length\":" + length + ",\"bytes\":" + answer.body().length
                + ",\"text\":" + text + "}";
    }

    private static String refusal(HttpResponse<byte[]> answer) {
        String type = answer.headers().firstValue("content-type").orElse("");
        String reason = text(new String(answer.body(), StandardCharsets.UTF_8), "reason");
        return "{\"status\":" + answer.statusCode() + ",\"type\":" + quoted(type) + ",\"reason\":" + quoted(reason) + "}";
    }

    /** The plan's JSON is flat and its texts have nothing to unescape. */
    private static String text(String json, String name) {
        return find(json, name, "\"([^\"]*)\"");
    }

    private static int number(String json, String name) {
        return Integer.parseInt(find(json, name, "([0-9]+)"));
    }

    private static String find(String json, String name, String value) {
        var matcher = Pattern.compile("\"" + name + "\": ?" + value).matcher(json);
        if (!matcher.find()) {
            throw new IllegalArgumentException("no " + name + " in " + json);
        }
        return matcher.group(1);
    }

    private static String quoted(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
    }
}
