package qupath.lib.images.servers

import groovy.json.JsonSlurper

// Two readers of maps, of which the first sees one level only; what a map holds stands beside it as JSON
class ImageServerProvider {
    static List getInstalledImageServerBuilders(Class type) { [new Reader(levels: 1), new Reader(levels: 4), new Reader(levels: 0)] }
}

class Reader {
    int levels

    def checkImageSupport(URI uri) {
        if (levels == 0)
            throw new UnsatisfiedLinkError("no library")
        def file = new File(uri)
        def data = [uri: uri.toString(), args: []] + (Map) new JsonSlurper().parse(new File(file.getPath() + ".json"))
        def builder = new stub.DefaultImageServerBuilder(data)
        builder.file = file
        builder.levels = levels
        builder.reader = levels + " levels"
        return new Support(builders: [builder])
    }
}

class Support {
    List builders

    float getSupportLevel() { 3 }
}
