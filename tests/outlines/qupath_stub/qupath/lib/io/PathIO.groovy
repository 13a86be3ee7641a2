package qupath.lib.io

import groovy.json.JsonOutput
import groovy.json.JsonSlurper

class PathIO {
    enum GeoJsonExportOptions { FEATURE_COLLECTION, EXCLUDE_MEASUREMENTS }

    static List readObjects(File file) {
        new JsonSlurper().parse(file).features.collect { feature ->
            def ring = feature.geometry.coordinates[0]
            new stub.PathObject([type: feature.properties.objectType, "class": feature.properties.classification?.name,
                ring: ring[0] == ring[-1] ? ring[0..<-1] : ring, measurements: feature.properties.measurements ?: [:]])
        }
    }

    static void exportObjectsAsGeoJSON(File file, Collection objects, GeoJsonExportOptions... options) {
        def features = objects.collect { object ->
            def properties = [objectType: object.type]
            if (object.pathClass != null)
                properties.classification = [name: object.pathClass.name, color: [200, 0, 0]]
            [type: "Feature", id: UUID.randomUUID().toString(), properties: properties,
                geometry: [type: "Polygon", coordinates: [object.roi.ring + [object.roi.ring[0]]]]]
        }
        file.setText(JsonOutput.toJson([type: "FeatureCollection", features: features]), "UTF-8")
    }
}
