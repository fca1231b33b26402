import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import org.apache.kafka.common.utils.Utils;

/**
 * The partitions that Kafka's own Java producer chooses. Reads lines {@code <key in hex>
 * <partitions>} from standard input and prints one partition for each.
 */
public final class PartitionVectors {
    private PartitionVectors() {}

    public static void main(String[] args) throws IOException {
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        var output = new PrintWriter(System.out);
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            int space = line.indexOf(' ');
            byte[] key = HexFormat.of().parseHex(line, 0, space);
            int partitions = Integer.parseInt(line, space + 1, line.length(), 10);
            output.println(Utils.toPositive(Utils.murmur2(key)) % partitions);
        }
        output.flush();
    }
}
