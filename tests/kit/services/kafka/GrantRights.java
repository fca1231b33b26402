import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.utils.SecurityUtils;

/**
 * Grants rights at the brokers named by the argument. Reads lines {@code <user> <operation>
 * <resource type> <pattern type> <name>} from standard input.
 */
public final class GrantRights {
    private GrantRights() {}

    public static void main(String[] arguments) throws Exception {
        var input = new BufferedReader(new InputStreamReader(System.in));
        var bindings = new ArrayList<AclBinding>();
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            var resource = new ResourcePattern(
                SecurityUtils.resourceType(words[2]),
                words[4],
                PatternType.valueOf(words[3].toUpperCase()));
            var entry = new AccessControlEntry(
                "User:" + words[0],
                "*",
                SecurityUtils.operation(words[1]),
                AclPermissionType.ALLOW);
            bindings.add(new AclBinding(resource, entry));
        }
        try (var admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            admin.createAcls(bindings).all().get();
        }
    }
}
