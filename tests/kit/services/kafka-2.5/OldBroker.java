import java.io.File;
import java.net.InetSocketAddress;
import java.util.Map;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;
import org.apache.zookeeper.server.ServerCnxnFactory;
import org.apache.zookeeper.server.ZooKeeperServer;

/**
 * A broker with the ZooKeeper that it needs, in one process. Arguments: the port and the folder of
 * ZooKeeper, and the properties of the broker.
 */
public final class OldBroker {
    private OldBroker() {}

    public static void main(String[] arguments) throws Exception {
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0]));
        var data = new File(arguments[1]);
        var connections = ServerCnxnFactory.createFactory(address, 10);
        connections.startup(new ZooKeeperServer(data, data, 500));
        kafka.Kafka.main(new String[] {arguments[2]});
    }

    /** Caps {@code max.message.bytes} of topics that begin with "capped", as managed clusters do. */
    public static final class CappedSizes implements CreateTopicPolicy {
        private static final long CAP = 8 << 20;

        @Override
        public void configure(Map<String, ?> configuration) {}

        @Override
        public void validate(RequestMetadata request) {
            String size = request.configs().get("max.message.bytes");
            boolean isCapped = request.topic().startsWith("capped");
            if (isCapped && size != null && Long.parseLong(size) > CAP) {
                throw new PolicyViolationException(
                    "Config property 'max.message.bytes' with value '" + size
                        + "' exceeded max limit of " + CAP);
            }
        }

        @Override
        public void close() {}
    }
}
