import com.launchdarkly.eventsource.ConnectStrategy;
import com.launchdarkly.eventsource.ErrorStrategy;
import com.launchdarkly.eventsource.EventSource;
import com.launchdarkly.eventsource.FaultEvent;
import com.launchdarkly.eventsource.MessageEvent;
import com.launchdarkly.eventsource.StreamEvent;
import java.net.URI;
import java.util.concurrent.TimeUnit;

/** Receives an event stream by okhttp-eventsource, and prints what comes. */
public class Sse {
    public static void main(String[] arguments) throws Exception {
        // By itself it gives up after 5 s without a byte, which is less than a beat.
        var patient = ConnectStrategy.http(URI.create(arguments[1])).readTimeout(10, TimeUnit.MINUTES);
        var source = new EventSource.Builder(patient)
                .errorStrategy(ErrorStrategy.alwaysContinue());
        try (var events = source.build()) {
            for (StreamEvent event : events.anyEvents()) {
                if (event instanceof MessageEvent message) {
                    boolean isPush = message.getEventName().equals("message");
                    System.out.println(isPush ? "data " + message.getData() : "event " + message.getEventName());
                } else if (event instanceof FaultEvent fault) {
                    System.out.println("error " + fault.getCause());
                    // Finished, or told to stop.
                    if ("bye".equals(events.getLastEventId())) {
                        break;
                    }
                }
            }
        }
        System.out.println("end");
    }
}
